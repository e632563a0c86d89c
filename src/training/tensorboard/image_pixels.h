// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "training/tensorboard/event_record.h"

namespace lockstep::training {

/// Throws: `c10::Error` for shapes and types that `TensorBoard::image` does not take.
void check_image(const at::Tensor& image);

/// The pixels as PyTorch's writer makes them: uint8 of shape [height, width, 3 or 4], contiguous
/// and on the CPU. Grey becomes RGB; floating point is multiplied by 255 and loses its fraction,
/// and NaN is 0. `image`: as `check_image` lets it pass.
[[nodiscard]] at::Tensor image_pixels(const at::Tensor& image);

/// `pixels`: as `image_pixels` has them.
/// Throws: `c10::Error` where there is no libpng, and for an image that libpng cannot hold.
[[nodiscard]] std::string encode_png(const at::Tensor& pixels);

}  // namespace lockstep::training
