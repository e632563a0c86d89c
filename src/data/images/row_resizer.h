// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image.h>

#include <cstdint>
#include <memory>

#include "data/images/resize_axis.h"
#include "data/images/resize_kernels.h"

namespace lockstep::data {

/// Resizes an image whose rows come one after the other, and keeps no more of them than it needs:
/// little memory, which stays in the cache. Each row is resized at once; a row of the result is
/// made when the last row that it needs is there.
///
/// Thread-safety: none. Owns: the rows in between; the axes and the result must outlive it.
class RowResizer {
 public:
  RowResizer(const ResizeAxis& rows, const ResizeAxis& columns, Image& result);

  /// Takes the next row, the first one is `rows.begin()`. Nothing to do after `rows.end()`.
  void push(const std::uint8_t* row);

 private:
  // Beside the rows that a row of the result needs, so that rows are moved seldom.
  static constexpr std::int64_t kSpareRows = 32;

  const ResizeAxis& rows_;
  const ResizeAxis& columns_;
  Image& result_;
  const ResizeKernels& kernels_;
  std::int64_t values_;    // of a row
  std::int64_t capacity_;  // rows; grows with how much shorter the image becomes
  std::unique_ptr<std::int16_t[]> between_;
  std::int64_t first_;     // the row at the beginning of `between_`
  std::int64_t next_;      // the row that comes next
  std::int64_t done_ = 0;  // rows of the result
};

}  // namespace lockstep::data
