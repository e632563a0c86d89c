// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_header.h>

#include "data/images/jpeg_decoder.h"

namespace lockstep::data {

/// Throws: `c10::Error` with the image's name and libpng's words.
[[nodiscard]] ImageHeader read_png_header(const EncodedImage& encoded);

/// The whole image: PNG data has no way to begin in the middle.
[[nodiscard]] Image decode_png(const EncodedImage& encoded, const ImageHeader& header);

}  // namespace lockstep::data
