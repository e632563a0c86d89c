// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

namespace lockstep::inference::detail {

/// A copy of a contiguous tensor of the CPU, made by this thread alone. LibTorch's own would share
/// a few hundred KiB among all cores, which takes longer where members use them.
[[nodiscard]] inline at::Tensor copy_of(const at::Tensor& tensor) {
  auto copy = at::empty(tensor.sizes(), tensor.options());
  if (tensor.numel() > 0) {
    std::memcpy(copy.mutable_data_ptr(), tensor.const_data_ptr(), tensor.nbytes());
  }
  return copy;
}

}  // namespace lockstep::inference::detail
