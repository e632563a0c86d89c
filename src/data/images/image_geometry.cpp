// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/image_operations.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace lockstep::data {
namespace {

constexpr std::int64_t kPixel = Image::kBytesPerPixel;

void copy_pixels(std::uint8_t* to, const std::uint8_t* from, std::int64_t count) {
  std::memcpy(to, from, static_cast<std::size_t>(count * kPixel));
}

void check(const Image& image, const char* what) {
  TORCH_CHECK(!image.is_empty(), what, ": the image has no pixels");
}

// Gives for each place of a padded line the place in the line of `size`; -1 is the fill.
std::vector<std::int64_t> padded_line(std::int64_t before, std::int64_t size, std::int64_t after,
                                      PaddingMode mode) {
  std::vector<std::int64_t> line;
  line.reserve(static_cast<std::size_t>(before + size + after));
  for (std::int64_t place = -before; place < size + after; ++place) {
    std::int64_t from = place;
    if (place < 0 || place >= size) {
      switch (mode) {
        case PaddingMode::Constant:
          from = -1;
          break;
        case PaddingMode::Edge:
          from = place < 0 ? 0 : size - 1;
          break;
        case PaddingMode::Reflect:
          from = place < 0 ? -place : 2 * size - 2 - place;
          break;
        case PaddingMode::Symmetric:
          from = place < 0 ? -place - 1 : 2 * size - 1 - place;
          break;
      }
    }
    line.push_back(from);
  }
  return line;
}

void check_padding(const Image& image, const Padding& padding, PaddingMode mode) {
  const auto most = std::max({padding.left, padding.top, padding.right, padding.bottom});
  TORCH_CHECK(std::min({padding.left, padding.top, padding.right, padding.bottom}) >= 0 &&
                  most <= Image::kMaxPixels,
              "pad: the padding is ", padding.left, ", ", padding.top, ", ", padding.right, ", ",
              padding.bottom, " (left, top, right, bottom); each must be from 0 to ",
              Image::kMaxPixels);
  if (mode != PaddingMode::Reflect && mode != PaddingMode::Symmetric) return;
  const std::int64_t own = mode == PaddingMode::Reflect ? 1 : 0;
  TORCH_CHECK(std::max(padding.left, padding.right) <= image.width() - own &&
                  std::max(padding.top, padding.bottom) <= image.height() - own,
              "pad: an image of ", image.height(), " x ", image.width(),
              " cannot be mirrored into ", padding.left, ", ", padding.top, ", ", padding.right,
              ", ", padding.bottom, " pixels (left, top, right, bottom)");
}

}  // namespace

Image crop(const Image& image, const ImageBox& box) {
  check(image, "crop");
  Image result(box.height, box.width);
  const auto left = std::clamp<std::int64_t>(box.left, 0, image.width());
  const auto right = std::clamp<std::int64_t>(box.left + box.width, left, image.width());
  if (box.top < 0 || box.left < 0 || box.top + box.height > image.height() ||
      box.left + box.width > image.width()) {
    std::memset(result.row(0), 0, static_cast<std::size_t>(result.pixels() * kPixel));
  }
  for (std::int64_t y = 0; y < box.height; ++y) {
    const auto from = box.top + y;
    if (from < 0 || from >= image.height() || right <= left) continue;
    copy_pixels(result.row(y) + (left - box.left) * kPixel, image.row(from) + left * kPixel,
                right - left);
  }
  return result;
}

Image pad(const Image& image, const Padding& padding, std::array<std::uint8_t, 3> fill,
          PaddingMode mode) {
  check(image, "pad");
  check_padding(image, padding, mode);
  Image result(image.height() + padding.top + padding.bottom,
               image.width() + padding.left + padding.right);
  const auto rows = padded_line(padding.top, image.height(), padding.bottom, mode);
  const auto columns = padded_line(padding.left, image.width(), padding.right, mode);
  const std::array<std::uint8_t, 4> colour{fill[0], fill[1], fill[2], 0};
  for (std::int64_t y = 0; y < result.height(); ++y) {
    const auto from = rows[static_cast<std::size_t>(y)];
    auto* to = result.row(y);
    for (const auto column : columns) {
      const auto* pixel =
          from < 0 || column < 0 ? colour.data() : image.row(from) + column * kPixel;
      std::memcpy(to, pixel, static_cast<std::size_t>(kPixel));
      to += kPixel;
    }
  }
  return result;
}

void horizontal_flip(Image& image) {
  check(image, "horizontal_flip");
  for (std::int64_t y = 0; y < image.height(); ++y) {
    auto* left = image.row(y);
    auto* right = left + (image.width() - 1) * kPixel;
    for (; left < right; left += kPixel, right -= kPixel) {
      std::uint32_t a = 0;
      std::uint32_t b = 0;
      std::memcpy(&a, left, sizeof(a));
      std::memcpy(&b, right, sizeof(b));
      std::memcpy(left, &b, sizeof(b));
      std::memcpy(right, &a, sizeof(a));
    }
  }
}

void vertical_flip(Image& image) {
  check(image, "vertical_flip");
  const auto bytes = image.width() * kPixel;
  for (std::int64_t y = 0; y < image.height() / 2; ++y) {
    std::swap_ranges(image.row(y), image.row(y) + bytes, image.row(image.height() - 1 - y));
  }
}

}  // namespace lockstep::data
