// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <functional>
#include <semaphore>
#include <thread>
#include <utility>

namespace lockstep {

/// A thread that looks at something now and then, for what must be noticed while nobody calls.
///
/// Thread-safety: `look` runs in the watchdog's thread and guards what it touches; it must neither
/// throw nor wait.
class Watchdog {
 public:
  Watchdog(std::chrono::milliseconds interval, std::function<void()> look)
      : look_(std::move(look)), thread_([this, interval] {
          while (!is_over_.try_acquire_for(interval)) look_();
        }) {}
  /// Blocks: for the look that is under way. Not called from `look`.
  ~Watchdog() { is_over_.release(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::binary_semaphore is_over_{0};
  std::function<void()> look_;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace lockstep
