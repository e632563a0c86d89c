// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <png.h>

#include <cstdint>
#include <string>

#include "training/tensorboard/image_pixels.h"

namespace lockstep::training {

std::string encode_png(const at::Tensor& pixels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(pixels.size(0));
  image.width = static_cast<png_uint_32>(pixels.size(1));
  image.format = pixels.size(2) == 4 ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  // Training waits for it, and a file of a run may be somewhat larger.
  image.flags = PNG_IMAGE_FLAG_FAST;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  const int is_done =
      ::png_image_write_to_memory(&image, bytes.data(), &size, /*convert_to_8_bit=*/0,
                                  pixels.const_data_ptr<std::uint8_t>(), /*row_stride=*/0,
                                  /*colormap=*/nullptr);
  TORCH_CHECK(is_done != 0, "TensorBoard::image: libpng cannot encode ", pixels.size(0), " x ",
              pixels.size(1), " pixels: ", static_cast<const char*>(image.message));
  bytes.resize(size);
  return bytes;
}

}  // namespace lockstep::training
