// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "training/tensorboard/event_record.h"

namespace lockstep::training {

/// Counts numbers in buckets whose limits are a factor of 1.1 apart, from 1e-12 to 1e20, on both
/// sides of 0. The limits are those of PyTorch's writer; what lies beyond them is counted in a
/// bucket of its own at each end.
///
/// Thread-safety: one thread.
/// Source: torch/utils/tensorboard/writer.py, `default_bins`.
class BucketCounts {
 public:
  BucketCounts();

  void add(std::span<const double> values);

  /// NaN and infinite numbers; they are nowhere else.
  [[nodiscard]] std::int64_t nonfinite() const noexcept { return nonfinite_; }
  [[nodiscard]] std::int64_t finite() const noexcept { return values_.count; }
  /// From an empty bucket in front of the first that is not, to the last that is not. Where several
  /// are empty in a row, they are one. There is a finite number.
  [[nodiscard]] HistogramValues result() const;

 private:
  [[nodiscard]] double limit_of(std::size_t bucket) const;

  std::vector<std::uint64_t> counts_;
  HistogramValues values_;  // without the buckets
  std::int64_t nonfinite_ = 0;
};

/// Of any type of real numbers, on any device.
/// Blocks: until the device has sent the tensor.
[[nodiscard]] BucketCounts count_buckets(const at::Tensor& tensor);

}  // namespace lockstep::training
