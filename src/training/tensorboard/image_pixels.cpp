// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/image_pixels.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace lockstep::training {
namespace {

constexpr std::int64_t kMostImageBytes = std::int64_t{1} << 30;  // a record has 2 GiB at most

}  // namespace

void check_image(const at::Tensor& image) {
  const bool is_grey = image.dim() == 2;
  const std::int64_t channels = is_grey ? 1 : image.dim() == 3 ? image.size(0) : 0;
  TORCH_CHECK(channels == 1 || channels == 3 || channels == 4,
              "TensorBoard::image: the tensor has shape ", image.sizes(),
              "; it must be [height, width], or [channels, height, width] with 1, 3 or 4 channels");
  TORCH_CHECK(image.numel() > 0, "TensorBoard::image: the tensor has shape ", image.sizes(),
              ", and no pixels");
  TORCH_CHECK(image.numel() / channels <= kMostImageBytes / 4,
              "TensorBoard::image: the tensor has ", "shape ", image.sizes(), "; images have ",
              kMostImageBytes / 4, " pixels at most");
  TORCH_CHECK(image.scalar_type() == at::kByte || image.is_floating_point(),
              "TensorBoard::image: the tensor is of type ", image.scalar_type(),
              "; it must be uint8 from 0 to 255, or floating point from 0 to 1");
}

at::Tensor image_pixels(const at::Tensor& image) {
  const at::NoGradGuard no_gradients;
  at::Tensor pixels = image.detach().cpu();
  if (pixels.dim() == 2) pixels = pixels.unsqueeze(0);
  if (pixels.scalar_type() != at::kByte) {
    pixels = pixels.to(at::kFloat).mul(255).nan_to_num(0.0, 255.0, 0.0).clamp(0, 255).to(at::kByte);
  }
  if (pixels.size(0) == 1) pixels = pixels.expand({3, -1, -1});
  return pixels.permute({1, 2, 0}).contiguous();
}

}  // namespace lockstep::training
