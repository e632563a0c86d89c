// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/image_planes.h"

// Compiled for wide vectors as well as for every machine; the loader picks one. Sanitizers
// instrument the choosing function, which runs before they are ready.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LOCKSTEP_VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define LOCKSTEP_VECTORISED
#endif

namespace lockstep::data {
namespace {

LOCKSTEP_VECTORISED
void split_bytes(const std::uint8_t* pixels, std::int64_t count, std::uint8_t* red,
                 std::uint8_t* green, std::uint8_t* blue) {
  for (std::int64_t i = 0; i < count; ++i) {
    red[i] = pixels[4 * i];
    green[i] = pixels[4 * i + 1];
    blue[i] = pixels[4 * i + 2];
  }
}

}  // namespace

void write_planes(const Image& image, std::uint8_t* planes) {
  const auto count = image.pixels();
  split_bytes(image.row(0), count, planes, planes + count, planes + 2 * count);
}

// A table gives the very bits of (x / 255 - mean) / std, for less than the two divisions.
void write_planes(const Image& image, const ValueTable& table, float* planes) {
  const auto count = image.pixels();
  const auto* pixels = image.row(0);
  float* red = planes;
  float* green = planes + count;
  float* blue = planes + 2 * count;
  const auto& [reds, greens, blues] = table;
  for (std::int64_t i = 0; i < count; ++i) {
    red[i] = reds[pixels[4 * i]];
    green[i] = greens[pixels[4 * i + 1]];
    blue[i] = blues[pixels[4 * i + 2]];
  }
}

}  // namespace lockstep::data
