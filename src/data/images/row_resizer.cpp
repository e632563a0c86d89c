// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/row_resizer.h"

#include <algorithm>
#include <cstring>

namespace lockstep::data {

RowResizer::RowResizer(const ResizeAxis& rows, const ResizeAxis& columns, Image& result)
    : rows_(rows),
      columns_(columns),
      result_(result),
      kernels_(resize_kernels()),
      values_(columns.size() * Image::kBytesPerPixel),
      capacity_(rows.taps() + kSpareRows),
      between_(std::make_unique_for_overwrite<std::int16_t[]>(
          static_cast<std::size_t>(capacity_ * values_))),
      first_(rows.begin()),
      next_(rows.begin()) {}

void RowResizer::push(const std::uint8_t* row) {
  if (done_ == rows_.size()) return;
  if (next_ - first_ == capacity_) {
    const auto needed = std::min(rows_.first()[done_], next_);
    std::memmove(between_.get(), between_.get() + (needed - first_) * values_,
                 static_cast<std::size_t>((next_ - needed) * values_) * sizeof(std::int16_t));
    first_ = needed;
  }
  kernels_.resize_row(row, columns_, between_.get() + (next_ - first_) * values_);
  ++next_;
  while (done_ < rows_.size() && rows_.first()[done_] + rows_.taps() <= next_) {
    kernels_.combine_rows(between_.get() + (rows_.first()[done_] - first_) * values_, values_,
                          rows_.weights(done_), rows_.taps(), values_, result_.row(done_));
    ++done_;
  }
}

}  // namespace lockstep::data
