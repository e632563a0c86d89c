// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/argument_checks.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <numeric>

#include "comm/collective/message.h"
#include "comm/collective/reduce_kernels.h"

namespace lockstep {
namespace {

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto* start_a = static_cast<const std::byte*>(a.const_data_ptr());
  const auto* start_b = static_cast<const std::byte*>(b.const_data_ptr());
  return a.nbytes() != 0 && b.nbytes() != 0 && start_a < start_b + b.nbytes() &&
         start_b < start_a + a.nbytes();
}

}  // namespace

void check_tensor(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK(tensor.defined(), op, ": ", name, " is an undefined tensor");
  TORCH_CHECK(tensor.device().is_cpu() || tensor.device().is_cuda(), op, ": ", name, " is on ",
              tensor.device(), "; process groups take CPU and CUDA tensors");
  TORCH_CHECK(tensor.layout() == at::kStrided, op, ": ", name, " has layout ", tensor.layout(),
              "; it must be dense");
  TORCH_CHECK(tensor.is_non_overlapping_and_dense(), op, ": ", name, " of sizes ", tensor.sizes(),
              " has strides ", tensor.strides(), "; it must fill its memory without gaps");
  // The memory of such a view holds other values than the view shows.
  TORCH_CHECK(!tensor.is_conj() && !tensor.is_neg(), op, ": ", name,
              " is a view that shows its memory conjugated or negated; pass what resolve_conj() "
              "and resolve_neg() give");
}

void check_contiguous(const at::Tensor& tensor, const char* op, const char* name) {
  check_tensor(tensor, op, name);
  TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " of sizes ", tensor.sizes(), " has strides ",
              tensor.strides(), "; it must be contiguous");
}

void check_contiguous(const std::vector<at::Tensor>& tensors, const char* op, const char* name) {
  for (const at::Tensor& tensor : tensors) check_contiguous(tensor, op, name);
}

void check_dtype(at::ScalarType dtype, const std::vector<at::Tensor>& tensors, const char* op) {
  for (const at::Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.scalar_type() == dtype, op, ": one tensor is of ", dtype, ", another of ",
                tensor.scalar_type(), "; all must have one dtype");
  }
}

void check_reduction(at::ScalarType dtype, ReduceOp reduce_op, const char* op) {
  const auto kind = reduce_op.kind();
  const bool is_mean = kind == ReduceOp::Kind::Avg || kind == ReduceOp::Kind::PreMulSum;
  TORCH_CHECK(can_reduce(dtype, reduce_op), op, ": ", to_string(reduce_op), " of ", dtype,
              " tensors is not supported",
              is_mean ? "; it needs a floating-point or complex dtype" : "");
}

void check_same_size(const std::vector<at::Tensor>& pieces, std::int64_t elements, const char* op,
                     const char* name) {
  for (const at::Tensor& piece : pieces) {
    TORCH_CHECK(piece.numel() == elements, op, ": ", name, " has ", piece.numel(),
                " elements; it must have ", elements);
  }
}

void check_apart(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                 const char* op) {
  for (const at::Tensor& output : outputs) {
    for (const at::Tensor& input : inputs) {
      TORCH_CHECK(!overlap(output, input), op,
                  ": an output overlaps an input; they must lie apart");
    }
  }
}

void check_apart_but(std::size_t own, const std::vector<at::Tensor>& pieces,
                     const at::Tensor& tensor, const char* op) {
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const bool is_in_its_place = i == own && pieces[i].const_data_ptr() == tensor.const_data_ptr();
    TORCH_CHECK(is_in_its_place || !overlap(pieces[i], tensor), op,
                ": this rank's tensor overlaps piece ", i, "; it may only be piece ", own,
                " itself");
  }
}

std::vector<at::Tensor> split_evenly(const at::Tensor& tensor, int parts) {
  // The program never sees the pieces, and noting for autograd what they are views of takes longer
  // than a small call itself.
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  return tensor.view({parts, tensor.numel() / parts}).unbind(0);
}

std::vector<at::Tensor> split_rows(const at::Tensor& tensor, at::IntArrayRef splits,
                                   const char* name) {
  TORCH_CHECK(tensor.dim() > 0, "all_to_all: ", name, " has no dimension to split");
  std::int64_t sum = 0;
  for (const auto rows : splits) {
    TORCH_CHECK(rows >= 0, "all_to_all: the splits of ", name, " are ", splits,
                "; none may be negative");
    sum += rows;
  }
  TORCH_CHECK(sum == tensor.size(0), "all_to_all: the splits of ", name, " are ", splits,
              ", together ", sum, "; it has ", tensor.size(0), " rows");
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // as above
  return tensor.split_with_sizes(splits, 0);
}

std::int64_t row_elements(const at::Tensor& tensor) {
  return std::accumulate(tensor.sizes().begin() + 1, tensor.sizes().end(), std::int64_t{1},
                         std::multiplies<>());
}

void check_root(int root, int ranks, const char* op) {
  TORCH_CHECK(root >= 0 && root < ranks, op, ": root is ", root, "; this group has ranks 0 to ",
              ranks - 1);
}

void check_count(const std::vector<at::Tensor>& tensors, int ranks, const char* op,
                 const char* name) {
  TORCH_CHECK(tensors.size() == static_cast<std::size_t>(ranks), op, ": ", tensors.size(), " ",
              name, " for ", ranks, " ranks");
}

void check_message(const at::Tensor& tensor, int peer, int tag, const MessagePlace& place) {
  const char* op = place.op;
  check_contiguous(tensor, op, "the tensor");
  TORCH_CHECK(peer >= 0 && peer < place.ranks, op, ": the other rank is ", peer,
              "; this group has ranks 0 to ", place.ranks - 1);
  TORCH_CHECK(peer != place.rank, op, ": rank ", peer, " is this rank itself");
  TORCH_CHECK(tag >= 0 && tag <= kMaxTag, op, ": the tag is ", tag, "; it must be 0 to ", kMaxTag);
}

}  // namespace lockstep
