// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::training {

/// Whether the bytes of a tensor, from its first on, are its values in the order of a file.
[[nodiscard]] inline bool has_plain_bytes(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous() &&
         !tensor.is_conj() && !tensor.is_neg();
}

}  // namespace lockstep::training
