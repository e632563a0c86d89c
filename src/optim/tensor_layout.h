// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

namespace lockstep::optim {

/// What parameters of this type are computed in.
inline at::ScalarType computing_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// Whether elements of the same index lie at the same place. The stride of a dimension with one
/// element says nothing.
inline bool is_laid_out_like(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  for (std::int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

/// The tensor itself where it lies as `model` does, and a copy that does otherwise. Fused operators
/// go through memory without a look at strides.
inline at::Tensor laid_out_like(const at::Tensor& tensor, const at::Tensor& model) {
  if (tensor.scalar_type() == model.scalar_type() && tensor.device() == model.device() &&
      is_laid_out_like(tensor, model)) {
    return tensor;
  }
  return at::empty_like(model).copy_(tensor);
}

}  // namespace lockstep::optim
