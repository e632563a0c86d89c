// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/sparse_gradients.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <vector>

namespace lockstep {
namespace {

/// How many entries and sparse dimensions every rank has.
std::vector<std::int64_t> gather_numbers(ProcessGroup& group, std::int64_t entries,
                                         std::int64_t dimensions) {
  const auto own = at::tensor({entries, dimensions}, at::kLong);
  const auto all = at::empty({group.size(), 2}, at::kLong);
  group.all_gather(all, own).wait();
  return {all.const_data_ptr<std::int64_t>(), all.const_data_ptr<std::int64_t>() + all.numel()};
}

/// The rows of all ranks, one rank's behind the other's. `rows`: how many each rank has.
at::Tensor gather_rows(ProcessGroup& group, const at::Tensor& own,
                       const std::vector<std::int64_t>& rows) {
  std::vector<at::Tensor> pieces;
  for (const std::int64_t count : rows) {
    auto sizes = own.sizes().vec();
    sizes[0] = count;
    pieces.push_back(at::empty(sizes, own.options()));
  }
  group.all_gather(pieces, own.contiguous()).wait();
  return at::cat(pieces);
}

}  // namespace

at::Tensor average_sparse(ProcessGroup& group, const at::Tensor& local, const at::Tensor& parameter,
                          double scale) {
  const auto scope = group.with(CallOptions().name("sparse gradient"));
  const at::Tensor own = local.defined() ? local.coalesce() : at::Tensor();
  const auto numbers =
      gather_numbers(group, own.defined() ? own._nnz() : 0, own.defined() ? own.sparse_dim() : 0);
  std::vector<std::int64_t> entries;
  std::int64_t dimensions = 0;
  for (std::size_t i = 0; i < numbers.size(); i += 2) {
    entries.push_back(numbers[i]);
    // 0: that rank has no gradient. All ranks look at all, so that all find the same.
    TORCH_CHECK(numbers[i + 1] == 0 || dimensions == 0 || numbers[i + 1] == dimensions,
                "DistributedDataParallel: the sparse gradients of one parameter have ",
                numbers[i + 1], " sparse dimensions on rank ", i / 2, " and ", dimensions,
                " on another; they must be alike");
    dimensions = std::max(dimensions, numbers[i + 1]);
  }
  auto value_sizes = parameter.sizes().slice(static_cast<std::size_t>(dimensions)).vec();
  value_sizes.insert(value_sizes.begin(), 0);
  const auto indices = own.defined()
                           ? own._indices().t()
                           : at::empty({0, dimensions}, parameter.options().dtype(at::kLong));
  const auto values =
      own.defined() ? own._values().mul(scale) : at::empty(value_sizes, parameter.options());
  const auto all_indices = gather_rows(group, indices, entries);
  const auto all_values = gather_rows(group, values, entries);
  return at::sparse_coo_tensor(all_indices.t(), all_values.div(group.size()), parameter.sizes(),
                               parameter.options().layout(at::kSparse))
      .coalesce();
}

}  // namespace lockstep
