// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <chrono>

namespace lockstep {

/// How long somebody has waited without being suspended: for "it has made no progress for as long
/// as that", where the waiting process and what it waits for may be stopped together, by Ctrl-Z, a
/// debugger or a batch system. Monotonic time goes on meanwhile.
///
/// Whoever waits looks again and again. Time between two looks counts up to `most`; what lies
/// beyond that is time in which the process did not run.
///
/// Thread-safety: a value.
class WaitedTime {
 public:
  using Clock = std::chrono::steady_clock;

  /// `most`: twice as long as the waiting process sleeps between two looks, or longer.
  explicit WaitedTime(Clock::duration most, Clock::time_point now = Clock::now())
      : most_(most), last_(now) {}

  /// Looks; the time since the last `restart`.
  Clock::duration look(Clock::time_point now = Clock::now()) {
    waited_ += std::clamp(now - last_, Clock::duration::zero(), most_);
    last_ = now;
    return waited_;
  }
  void restart(Clock::time_point now = Clock::now()) {
    waited_ = Clock::duration::zero();
    last_ = now;
  }

 private:
  Clock::duration most_;
  Clock::time_point last_;
  Clock::duration waited_{};
};

}  // namespace lockstep
