// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_operations.h>

#include <cstdint>

namespace lockstep::data {

/// How an image is stored that is to be shown upright, as EXIF numbers it: 1 is upright, 2 has left
/// and right exchanged, 3 stands on its head, 4 has top and bottom exchanged. 5 to 8 have rows and
/// columns exchanged: 5 nothing else, 6 must be turned right by a quarter, 7 has both ends
/// exchanged as well, 8 must be turned left.
class ImageOrientation {
 public:
  /// `number` from 1 to 8.
  explicit ImageOrientation(int number);

  [[nodiscard]] bool is_upright() const noexcept {
    return !swaps_sides_ && !from_bottom_ && !from_right_;
  }
  [[nodiscard]] bool swaps_sides() const noexcept { return swaps_sides_; }

  /// Where a part of the upright image lies in the stored one of `height` x `width` pixels.
  [[nodiscard]] ImageBox stored(const ImageBox& upright, std::int64_t height,
                                std::int64_t width) const;
  /// The other way round.
  [[nodiscard]] FractionalBox upright(const FractionalBox& stored, std::int64_t height,
                                      std::int64_t width) const;
  [[nodiscard]] Image upright(Image stored) const;

 private:
  [[nodiscard]] Image turned(const Image& stored) const;

  bool swaps_sides_;
  bool from_bottom_;  // the stored row is counted from the bottom
  bool from_right_;   // the stored column is counted from the right
};

}  // namespace lockstep::data
