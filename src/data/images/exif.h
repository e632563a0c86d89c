// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image_header.h>

#include <cstddef>
#include <span>

namespace lockstep::data {

/// How the image was held, 1 to 8, by the first EXIF data of a JPEG file (in front of its pixels)
/// or a PNG file (anywhere). 1, which is upright, where there is none, it does not say, or it is
/// damaged: never an error.
/// Source: Exif 2.32, 4.6; PNG 3, "eXIf".
[[nodiscard]] int exif_orientation(ImageFormat format, std::span<const std::byte> file) noexcept;

}  // namespace lockstep::data
