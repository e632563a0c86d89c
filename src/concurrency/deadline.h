// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <chrono>

namespace lockstep {

/// A point in monotonic time after which a wait gives up. Every wait in this library takes one.
///
/// Thread-safety: a value.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  template <typename Rep, typename Period>
  [[nodiscard]] static Deadline after(std::chrono::duration<Rep, Period> duration) {
    const auto start = Clock::now();
    // A huge timeout must not wrap around into the past, nor when it becomes nanoseconds.
    const auto room =
        std::chrono::duration_cast<decltype(duration)>(Clock::time_point::max() - start);
    if (duration >= room) return Deadline(start, Clock::time_point::max());
    return Deadline(start, start + std::chrono::duration_cast<Clock::duration>(duration));
  }

  [[nodiscard]] bool has_passed() const { return Clock::now() >= end_; }

  /// Time left; zero when the deadline has passed.
  [[nodiscard]] std::chrono::nanoseconds remaining() const {
    return std::max(std::chrono::nanoseconds::zero(),
                    std::chrono::duration_cast<std::chrono::nanoseconds>(end_ - Clock::now()));
  }

  /// Time since this deadline was set.
  [[nodiscard]] std::chrono::duration<double> elapsed() const { return Clock::now() - start_; }

 private:
  Deadline(Clock::time_point start, Clock::time_point end) : start_(start), end_(end) {}

  Clock::time_point start_;
  Clock::time_point end_;
};

}  // namespace lockstep
