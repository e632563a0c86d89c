// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace lockstep {

/// Waiting for what wakes nobody: look again at once for a while, then with pauses, so that a rank
/// that waits for long leaves the core to others.
class Backoff {
 public:
  void sleep(std::chrono::nanoseconds limit) {
    constexpr int kLooksBeforeSleep = 200;
    constexpr std::chrono::microseconds kInterval{50};
    if (++looks_ < kLooksBeforeSleep) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kInterval, limit));
    }
  }
  void reset() noexcept { looks_ = 0; }

 private:
  int looks_ = 0;
};

}  // namespace lockstep
