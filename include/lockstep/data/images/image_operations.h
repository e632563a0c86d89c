// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/images/image.h>

#include <array>
#include <cstdint>

/// @file
/// What the transforms do once their numbers are drawn. Each has the result of the function of the
/// same name in `torchvision.transforms.v2.functional` for a uint8 tensor: "equal", or "within 1"
/// of each value.
///
/// Thread-safety: functions without state.
/// Throws: `c10::Error` for an image without pixels and for arguments out of range, with what was
/// given.

namespace lockstep::data {

/// A part of an image in fractions of pixels.
struct FractionalBox {
  double top = 0;     ///< rows above it
  double left = 0;    ///< columns to its left
  double height = 0;  ///< its rows
  double width = 0;   ///< its columns
};

/// The image at another size, bilinear with antialiasing: where it becomes smaller, each pixel is a
/// weighted mean of all that it covers (a triangle, as wide as twice the ratio). It is within 1 of
/// Pillow and of torchvision's `resize(antialias=True)`.
///
/// The bits are the same on every machine: weights are whole numbers of 14 bits, and values have 7
/// bits behind the point between the two directions.
/// Source: the separable filter of Pillow's `Image.resize`.
[[nodiscard]] LOCKSTEP_API Image resize(const Image& image, std::int64_t height,
                                        std::int64_t width);
/// The part in `box` at another size: the same as `crop` and then `resize` when `box` has whole
/// numbers. Pixels at the edge of a box with fractions count by the share that lies in the box.
[[nodiscard]] LOCKSTEP_API Image resize(const Image& image, const FractionalBox& box,
                                        std::int64_t height, std::int64_t width);

/// A part of the image (equal). The box may reach beyond the image; what lies there becomes 0.
[[nodiscard]] LOCKSTEP_API Image crop(const Image& image, const ImageBox& box);

/// How `pad` fills what it adds.
enum class PaddingMode : std::uint8_t {
  Constant,   ///< with a colour
  Edge,       ///< with the nearest pixel
  Reflect,    ///< with the image mirrored, without its outermost pixels
  Symmetric,  ///< with the image mirrored, its outermost pixels included
};

/// Pixels to be added at each side; none is negative.
struct Padding {
  std::int64_t left = 0;    ///< columns
  std::int64_t top = 0;     ///< rows
  std::int64_t right = 0;   ///< columns
  std::int64_t bottom = 0;  ///< rows
};

/// The image with sides added (equal).
/// Throws: as all functions here, and when a mirrored image is not large enough for what it is to
/// fill.
[[nodiscard]] LOCKSTEP_API Image pad(const Image& image, const Padding& padding,
                                     std::array<std::uint8_t, 3> fill = {0, 0, 0},
                                     PaddingMode mode = PaddingMode::Constant);

/// Swaps left and right (equal).
LOCKSTEP_API void horizontal_flip(Image& image);
/// Swaps top and bottom (equal).
LOCKSTEP_API void vertical_flip(Image& image);

/// Multiplies all values by `factor`, which is at least 0 (within 1).
LOCKSTEP_API void adjust_brightness(Image& image, double factor);
/// Blends the image with the mean of its grey image: `factor` 0 gives the mean, 1 the image, and a
/// larger one more contrast (within 1).
LOCKSTEP_API void adjust_contrast(Image& image, double factor);
/// Blends the image with its grey image: `factor` 0 gives the grey image, 1 the image, and a larger
/// one stronger colours (within 1).
LOCKSTEP_API void adjust_saturation(Image& image, double factor);
/// Turns the hue by `factor` of a circle, from -0.5 to 0.5 (within 1).
LOCKSTEP_API void adjust_hue(Image& image, double factor);

}  // namespace lockstep::data
