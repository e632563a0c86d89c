// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image_header.h>
#include <lockstep/data/images/image_operations.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace lockstep::data {

/// What a format's decoder is given.
struct EncodedImage {
  std::span<const std::byte> bytes;
  std::string_view name;
  bool tolerate_damage = false;
};

/// Throws: `c10::Error` with the image's name and libjpeg's words.
[[nodiscard]] ImageHeader read_jpeg_header(const EncodedImage& encoded);

/// 1, 2, 4 or 8: how much smaller each side may become while the part keeps so many pixels.
[[nodiscard]] int jpeg_scale(const ImageBox& part, std::int64_t min_height, std::int64_t min_width);

/// Decodes the rows of a part of a JPEG image, from the top, with some pixels around it.
///
/// Thread-safety: none. Owns: libjpeg's state; `encoded`'s bytes and name must outlive it. Throws:
/// `c10::Error` with the image's name and libjpeg's words.
class JpegReader {
 public:
  /// `part` must lie inside the image that the header tells of; each side becomes smaller by
  /// `scale`.
  JpegReader(const EncodedImage& encoded, const ImageBox& part, int scale);
  ~JpegReader();
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  /// The size of what is decoded, and where in it the part lies.
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t width() const noexcept { return width_; }
  [[nodiscard]] const FractionalBox& part() const noexcept { return part_; }

  /// The next `count` rows, as an `Image` has them; at most as many as are left.
  void read(std::uint8_t* target, std::int64_t count);
  /// Looks at what follows the last row of the image, which must have been read.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::int64_t rows_ = 0;
  std::int64_t width_ = 0;
  FractionalBox part_;
};

}  // namespace lockstep::data
