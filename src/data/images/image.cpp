// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/image.h>

#include <cstring>

namespace lockstep::data {

Image::Image(std::int64_t height, std::int64_t width) : height_(height), width_(width) {
  TORCH_CHECK(height >= 1 && width >= 1 && height <= kMaxPixels / width, "Image: the size is ",
              height, " x ", width,
              " (height x width); both must be at least 1 and there may be at most ", kMaxPixels,
              " pixels");
  const auto bytes = static_cast<std::size_t>(height * width * kBytesPerPixel);
  pixels_.reset(new std::uint8_t[bytes + kSlack]);
  std::memset(pixels_.get() + bytes, 0, kSlack);
}

Image Image::clone() const {
  if (is_empty()) return {};
  Image copy(height_, width_);
  std::memcpy(copy.row(0), row(0), static_cast<std::size_t>(pixels() * kBytesPerPixel));
  return copy;
}

}  // namespace lockstep::data
