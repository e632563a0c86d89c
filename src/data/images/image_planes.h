// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image.h>

#include <array>
#include <cstdint>

namespace lockstep::data {

/// What each uint8 value of each channel becomes.
using ValueTable = std::array<std::array<float, 256>, static_cast<std::size_t>(Image::kChannels)>;

/// Writes the image as {3, H, W}.
void write_planes(const Image& image, std::uint8_t* planes);
void write_planes(const Image& image, const ValueTable& table, float* planes);

}  // namespace lockstep::data
