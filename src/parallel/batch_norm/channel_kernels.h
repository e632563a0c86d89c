// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

/// What a value of each channel is multiplied by, and what is added.
struct ChannelFactors {
  at::Tensor of_first, of_second, shift;  // (C), in the dtype in which values are added
};

/// `first * of_first + second * of_second + shift` for each channel, in one pass.
///
/// Shapes: (N, C, ...), CPU, both contiguous in the same memory format, which the result has too.
[[nodiscard]] at::Tensor combine_channels(const at::Tensor& first, const at::Tensor& second,
                                          const ChannelFactors& factors);

}  // namespace lockstep
