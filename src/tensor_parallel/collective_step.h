// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

/// One direction of a differentiable collective: a linear map of all ranks' tensors.
struct CollectiveStep {
  enum class Kind {
    Identity,
    AllReduce,
    Reduce,
    Broadcast,
    OwnPart,
    AllGather,
    ReduceScatter,
    Exchange,
    ExchangeRows,
  };

  Kind kind = Kind::Identity;
  std::int64_t dim = 0;        // that is cut, or joined; of an exchange the one that is cut
  std::int64_t other_dim = 0;  // of an exchange, the one that is joined
  ReduceOp op = ReduceOp::Sum;
  int root = 0;
  std::vector<std::int64_t> output_splits = {}, input_splits = {};  // of ExchangeRows
};

/// A new tensor, except for Identity. `name` stands in errors, and ranks compare it together with
/// the shape and the dimensions. No graph is recorded.
[[nodiscard]] at::Tensor run_step(const CollectiveStep& step, const at::Tensor& input,
                                  ProcessGroup& group, const std::string& name);

/// "NAME [2, 3]": ranks whose shapes differ get a `MismatchError` although the numbers of elements
/// may agree.
[[nodiscard]] std::string call_name(const std::string& name, at::IntArrayRef shape);

/// `input` as one row for each rank, cut along `dim`: contiguous, [ranks, ...].
[[nodiscard]] at::Tensor rows_of_ranks(const at::Tensor& input, std::int64_t dim, int ranks,
                                       const std::string& name);
/// New memory for one tensor like `own` of each rank: [ranks, ...].
[[nodiscard]] at::Tensor rows_for(const at::Tensor& own, int ranks);
/// The way back: row r is the part of rank r along `dim`.
[[nodiscard]] at::Tensor join_rows(const at::Tensor& rows, std::int64_t dim);

/// Throws: `c10::Error` for a null group or an undefined tensor.
void check_call(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                const char* name);

/// Applies `forward`; backward applies `backward`, whose own backward is `forward` again.
[[nodiscard]] at::Tensor linear_collective(const at::Tensor& input,
                                           const std::shared_ptr<ProcessGroup>& group,
                                           CollectiveStep forward, CollectiveStep backward,
                                           const std::string& name);

}  // namespace lockstep
