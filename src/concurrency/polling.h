// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include "concurrency/deadline.h"

namespace lockstep {

/// Asks until `is_done()` is true, with pauses of an eighth of the time so far, `longest_pause` at
/// most: for what nobody is woken for, as files that another process writes. Returns whether it was
/// true; the last question comes after the deadline.
///
/// Blocks: the calling thread, until then.
template <typename IsDone>
[[nodiscard]] bool poll_until(const Deadline& deadline, std::chrono::milliseconds longest_pause,
                              IsDone&& is_done) {
  constexpr std::chrono::milliseconds kShortest{1};
  while (true) {
    const bool is_last = deadline.has_passed();
    if (is_done()) return true;
    if (is_last) return false;
    const auto part = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.elapsed() / 8);
    const auto pause = std::clamp(part, std::min(kShortest, longest_pause), longest_pause);
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(deadline.remaining(), pause));
  }
}

}  // namespace lockstep
