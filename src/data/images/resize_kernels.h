// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

#include "data/images/resize_axis.h"

namespace lockstep::data {

/// The two inner loops of `resize`. All implementations compute with the same whole numbers, so
/// they give the same bits.
struct ResizeKernels {
  /// Values between the two directions have so many bits behind the point: 255 still fits 15 bits.
  static constexpr int kPoint = 7;

  /// Makes `axis.size()` pixels of four numbers of a row of pixels of four bytes. May read up to 16
  /// bytes behind the last pixel that counts.
  void (*resize_row)(const std::uint8_t* row, const ResizeAxis& axis, std::int16_t* target);
  /// Makes `values` bytes, each a weighted mean of `taps` numbers that lie `stride` apart.
  void (*combine_rows)(const std::int16_t* rows, std::int64_t stride, const std::int16_t* weights,
                       int taps, std::int64_t values, std::uint8_t* target);
};

/// The kernels in plain C++.
[[nodiscard]] const ResizeKernels& portable_resize_kernels();
/// The fastest kernels that this machine can run.
[[nodiscard]] const ResizeKernels& resize_kernels();

}  // namespace lockstep::data
