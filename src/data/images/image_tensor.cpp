// SPDX-License-Identifier: BSD-3-Clause
// Apart from image.cpp, so that the decoders can be built without ATen (the fuzzer is).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_decoder.h>

#include <cstddef>

#include "data/images/image_planes.h"
#include "data/readers/file_bytes.h"

namespace lockstep::data {

Image Image::from_tensor(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined() && tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
                  tensor.scalar_type() == at::kByte && tensor.dim() == 3 &&
                  tensor.size(0) == kChannels,
              "Image::from_tensor: expected a dense uint8 {3, H, W} on the CPU, found ",
              tensor.defined() ? tensor.toString() : "an undefined tensor", ' ',
              tensor.defined() ? tensor.sizes() : at::IntArrayRef());
  Image image(tensor.size(1), tensor.size(2));
  const auto* source = tensor.const_data_ptr<std::uint8_t>();
  const auto channel = tensor.stride(0);
  const auto column = tensor.stride(2);
  for (std::int64_t y = 0; y < image.height(); ++y) {
    const auto* from = source + y * tensor.stride(1);
    auto* to = image.row(y);
    for (std::int64_t x = 0; x < image.width(); ++x, from += column, to += kBytesPerPixel) {
      for (std::int64_t c = 0; c < kChannels; ++c) to[c] = from[c * channel];
      to[kChannels] = 0;
    }
  }
  return image;
}

at::Tensor Image::to_tensor() const {
  TORCH_CHECK(!is_empty(), "Image::to_tensor: the image has no pixels");
  auto tensor = at::empty({kChannels, height_, width_}, at::kByte);
  write_planes(*this, tensor.mutable_data_ptr<std::uint8_t>());
  return tensor;
}

at::Tensor decode_image(std::span<const std::byte> bytes, std::string_view name,
                        const ImageDecoderOptions& options) {
  return ImageDecoder(bytes, name, options).decode().to_tensor();
}

at::Tensor read_image(const std::string& path, const ImageDecoderOptions& options) {
  const FileBytes file(path, options.max_file_bytes());
  return decode_image(file.bytes(), path, options);
}

}  // namespace lockstep::data
