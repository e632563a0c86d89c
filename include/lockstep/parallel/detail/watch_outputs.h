// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/detail/visit_tensors.h>

#include <cstdint>
#include <optional>

namespace lockstep::detail {

/// The size of the first dimension of the first argument, if it is a tensor that has one.
[[nodiscard]] inline std::optional<std::int64_t> samples_of() {
  return std::nullopt;
}
template <typename First, typename... Rest>
[[nodiscard]] std::optional<std::int64_t> samples_of(const First& first, const Rest&...) {
  if constexpr (TensorLike<First>) {
    const at::Tensor& tensor = first;
    if (tensor.defined() && tensor.dim() > 0) return tensor.size(0);
  }
  return std::nullopt;
}

}  // namespace lockstep::detail
