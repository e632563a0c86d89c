// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/image_orientation.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace lockstep::data {

ImageOrientation::ImageOrientation(int number)
    : swaps_sides_(number >= 5),
      from_bottom_(number == 3 || number == 4 || number == 6 || number == 7),
      from_right_(number == 2 || number == 3 || number == 7 || number == 8) {}

ImageBox ImageOrientation::stored(const ImageBox& upright, std::int64_t height,
                                  std::int64_t width) const {
  ImageBox box = upright;
  if (swaps_sides_) box = {upright.left, upright.top, upright.width, upright.height};
  if (from_bottom_) box.top = height - box.top - box.height;
  if (from_right_) box.left = width - box.left - box.width;
  return box;
}

FractionalBox ImageOrientation::upright(const FractionalBox& stored, std::int64_t height,
                                        std::int64_t width) const {
  FractionalBox box = stored;
  if (from_bottom_) box.top = static_cast<double>(height) - box.top - box.height;
  if (from_right_) box.left = static_cast<double>(width) - box.left - box.width;
  if (swaps_sides_) box = {box.left, box.top, box.width, box.height};
  return box;
}

Image ImageOrientation::upright(Image stored) const {
  if (swaps_sides_) return turned(stored);
  if (from_right_) horizontal_flip(stored);
  if (from_bottom_) vertical_flip(stored);
  return stored;
}

// Works in squares, so that neither the rows that are read nor those that are written leave the
// cache.
Image ImageOrientation::turned(const Image& stored) const {
  constexpr std::int64_t kSide = 16;
  constexpr auto kPixelBytes = static_cast<std::size_t>(Image::kBytesPerPixel);
  Image image(stored.width(), stored.height());
  const auto turn = [&](std::int64_t y, std::int64_t x) {
    const auto row = from_bottom_ ? stored.height() - 1 - x : x;
    const auto column = from_right_ ? stored.width() - 1 - y : y;
    std::memcpy(image.row(y) + x * Image::kBytesPerPixel,
                stored.row(row) + column * Image::kBytesPerPixel, kPixelBytes);
  };
  for (std::int64_t top = 0; top < image.height(); top += kSide) {
    for (std::int64_t left = 0; left < image.width(); left += kSide) {
      const auto bottom = std::min(top + kSide, image.height());
      const auto right = std::min(left + kSide, image.width());
      for (auto y = top; y < bottom; ++y) {
        for (auto x = left; x < right; ++x) turn(y, x);
      }
    }
  }
  return image;
}

}  // namespace lockstep::data
