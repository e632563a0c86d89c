// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace at {
class Tensor;
}

namespace lockstep::data {

/// A part of an image, in pixels from its upper left corner.
struct ImageBox {
  std::int64_t top = 0;     ///< rows above it
  std::int64_t left = 0;    ///< columns to its left
  std::int64_t height = 0;  ///< its rows
  std::int64_t width = 0;   ///< its columns

  /// Whether all four numbers are the same.
  [[nodiscard]] bool operator==(const ImageBox& other) const = default;
};

/// A colour image between decoding and the tensor: 8 bits a channel, four bytes a pixel (red,
/// green, blue, and one without meaning), rows from top to bottom without gaps. Four bytes, because
/// decoders, resizing and flips work on whole 32-bit words.
///
/// Thread-safety: a value; const members may be called from several threads.
/// Owns: its pixels. Moving it is cheap, copying is asked for by name.
class LOCKSTEP_API Image {
 public:
  /// Red, green, blue.
  static constexpr std::int64_t kChannels = 3;
  /// A pixel takes a word of 32 bits.
  static constexpr std::int64_t kBytesPerPixel = 4;
  /// No image has more pixels than this.
  static constexpr std::int64_t kMaxPixels = std::int64_t{1} << 30;

  /// No pixels.
  Image() = default;
  /// Pixels without defined values.
  /// Throws: `c10::Error` unless both are at least 1 and the product at most `kMaxPixels`.
  Image(std::int64_t height, std::int64_t width);

  /// The image that a tensor holds.
  /// Shapes: uint8 {3, H, W} on the CPU, of any strides.
  /// Throws: `c10::Error` for any other tensor.
  [[nodiscard]] static Image from_tensor(const at::Tensor& tensor);
  /// The image as a tensor with memory of its own.
  /// Shapes: uint8 {3, H, W}, contiguous.
  [[nodiscard]] at::Tensor to_tensor() const;
  /// A copy with pixels of its own.
  [[nodiscard]] Image clone() const;

  /// Rows.
  [[nodiscard]] std::int64_t height() const noexcept { return height_; }
  /// Columns.
  [[nodiscard]] std::int64_t width() const noexcept { return width_; }
  /// Rows times columns.
  [[nodiscard]] std::int64_t pixels() const noexcept { return height_ * width_; }
  /// Whether it has no pixels: made without a size, or moved from.
  [[nodiscard]] bool is_empty() const noexcept { return pixels_ == nullptr; }

  /// The first of `width() * kBytesPerPixel` bytes; the next row follows at once. Behind the last
  /// row `kSlack` bytes may be read and mean nothing.
  [[nodiscard]] std::uint8_t* row(std::int64_t y) noexcept {
    return pixels_.get() + y * width_ * kBytesPerPixel;
  }
  /// The same to read.
  [[nodiscard]] const std::uint8_t* row(std::int64_t y) const noexcept {
    return pixels_.get() + y * width_ * kBytesPerPixel;
  }
  /// Bytes behind the last row that may be read.
  static constexpr std::size_t kSlack = 64;

 private:
  std::int64_t height_ = 0;
  std::int64_t width_ = 0;
  std::unique_ptr<std::uint8_t[]> pixels_;
};

}  // namespace lockstep::data
