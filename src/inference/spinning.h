// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace lockstep::inference::detail {

/// Looks again and again while `is_still_so()`, for at most `limit`. Whether it is no longer so.
/// Falling asleep and being woken takes tens of microseconds, as much as a small model.
template <typename Condition>
[[nodiscard]] bool spin_while(std::chrono::nanoseconds limit, const Condition& is_still_so) {
  if (limit <= std::chrono::nanoseconds::zero()) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  constexpr int kLooks = 32;  // between two looks at the clock
  do {
    for (int look = 0; look < kLooks; ++look) {
      if (!is_still_so()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

/// Decides how long to look again and again before falling asleep. Where that was of no use the
/// last time (a model that takes long, or two processes on one core, one of which keeps the other
/// from answering), it is short; now and then it is tried in full.
///
/// Thread-safety: any thread.
class SpinBudget {
 public:
  explicit SpinBudget(std::chrono::nanoseconds most) : most_(most) {}

  /// Whether the condition has ended. Blocks: at most `limit`.
  template <typename Condition>
  [[nodiscard]] bool spin_while_so(std::chrono::nanoseconds limit, const Condition& is_still_so) {
    const bool is_full = was_useful_.load(std::memory_order_relaxed) ||
                         turn_.fetch_add(1, std::memory_order_relaxed) % kTrials == 0;
    const bool is_over = spin_while(std::min(limit, is_full ? most_ : most_ / kPart), is_still_so);
    was_useful_.store(is_over, std::memory_order_relaxed);
    return is_over;
  }

 private:
  static constexpr std::uint32_t kTrials = 32;
  static constexpr int kPart = 16;

  std::chrono::nanoseconds most_;
  std::atomic<bool> was_useful_{true};
  std::atomic<std::uint32_t> turn_{0};
};

}  // namespace lockstep::inference::detail
