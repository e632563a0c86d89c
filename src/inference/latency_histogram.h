// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace lockstep::inference::detail {

/// Counts durations in fixed buckets, sixteen for each power of two: adding one costs no memory and
/// no lock, and a process that dies leaves no half of it. Zero memory is an empty one.
///
/// Thread-safety: any thread or process that shares its memory.
class LatencyHistogram {
 public:
  static constexpr int kStepBits = 4;
  static constexpr int kFirstBits = 8;  // below 256 ns there is one bucket
  static constexpr int kLastBits = 38;  // from 4.6 minutes on, too
  static constexpr std::size_t kBuckets =
      (static_cast<std::size_t>(kLastBits - kFirstBits) << kStepBits) + 2;

  void add(std::uint64_t nanoseconds) {
    buckets_[bucket_of(nanoseconds)].fetch_add(1, std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (const auto& bucket : buckets_) sum += bucket.load(std::memory_order_relaxed);
    return sum;
  }

  /// Nanoseconds that this part of all took at most; 0 where there are none.
  [[nodiscard]] std::uint64_t quantile(double part) const {
    const auto all = count();
    if (all == 0) return 0;
    const auto wanted = std::max<std::uint64_t>(
        1, static_cast<std::uint64_t>(std::ceil(part * static_cast<double>(all))));
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
      seen += buckets_[bucket].load(std::memory_order_relaxed);
      if (seen >= wanted) return end_of(bucket);
    }
    return end_of(kBuckets - 1);
  }

  [[nodiscard]] static std::size_t bucket_of(std::uint64_t nanoseconds) {
    const auto bits = static_cast<int>(std::bit_width(nanoseconds)) - 1;
    if (nanoseconds == 0 || bits < kFirstBits) return 0;
    if (bits >= kLastBits) return kBuckets - 1;
    const auto step = (nanoseconds >> (bits - kStepBits)) & ((1U << kStepBits) - 1);
    return 1 + (static_cast<std::size_t>(bits - kFirstBits) << kStepBits) +
           static_cast<std::size_t>(step);
  }
  /// The first duration that is too long for this bucket.
  [[nodiscard]] static std::uint64_t end_of(std::size_t bucket) {
    if (bucket == 0) return std::uint64_t{1} << kFirstBits;
    const auto bits = static_cast<int>((bucket - 1) >> kStepBits) + kFirstBits;
    const auto step = (bucket - 1) & ((1U << kStepBits) - 1);
    return ((std::uint64_t{1} << kStepBits) + step + 1) << (bits - kStepBits);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_;
};

}  // namespace lockstep::inference::detail
