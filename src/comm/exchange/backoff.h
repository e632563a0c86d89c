// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace lockstep {

/// The pauses of a wait for something that wakes nobody: at first none, so that the caller polls
/// again at once, later longer ones, which leave the core to others.
class Backoff {
 public:
  /// Whether the next pause is none.
  [[nodiscard]] bool polls() const noexcept { return polls_ + 1 < kPollsBeforeSleep; }
  void sleep(std::chrono::nanoseconds limit) {
    constexpr std::chrono::microseconds kInterval{50};
    if (++polls_ < kPollsBeforeSleep) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kInterval, limit));
    }
  }
  void reset() noexcept { polls_ = 0; }

 private:
  static constexpr int kPollsBeforeSleep = 200;

  int polls_ = 0;
};

}  // namespace lockstep
