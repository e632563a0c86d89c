// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

namespace lockstep::data {

/// The formats that can be decoded.
enum class ImageFormat : std::uint8_t {
  Jpeg,  ///< baseline and progressive, of 8 bits
  Png,   ///< of every kind
};

/// What the first bytes of an encoded image say; the pixels may still be damaged. The size is that
/// of the decoded image.
///
/// Thread-safety: a value; copies are independent.
struct ImageHeader {
  ImageFormat format = ImageFormat::Jpeg;  ///< what the content says, not the name
  std::int64_t height = 0;                 ///< rows
  std::int64_t width = 0;                  ///< columns
};

}  // namespace lockstep::data
