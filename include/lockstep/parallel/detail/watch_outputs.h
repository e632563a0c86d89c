// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/detail/visit_tensors.h>

#include <cstdint>

namespace lockstep::detail {

/// The size of the first dimension of the first argument, if it is a tensor that has one.
[[nodiscard]] inline std::int64_t samples_of() {
  return 0;
}
template <typename First, typename... Rest>
[[nodiscard]] std::int64_t samples_of(const First& first, const Rest&...) {
  if constexpr (TensorLike<First>) {
    const at::Tensor& tensor = first;
    return tensor.defined() && tensor.dim() > 0 ? tensor.size(0) : 0;
  } else {
    return 0;
  }
}

}  // namespace lockstep::detail
