// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "workers/worker_record.h"

namespace lockstep::workers {

/// Words that all processes of one pool watch. Lies in shared memory, zeroed at first.
struct PoolEventWords {
  /// Values of `awaited`.
  static constexpr std::uint64_t kNobodyWaits = 0;
  static constexpr std::uint64_t kAny = ~std::uint64_t{0};

  alignas(64) std::atomic<std::uint32_t> stop;  // 1: workers end after the current item
  alignas(64) std::atomic<std::uint32_t> work;  // futex of the workers: changes when there is
                                                // something new to do
  std::atomic<std::uint32_t> sleepers;          // workers asleep; may be too large, never too small
  alignas(64) std::atomic<std::uint32_t> done;  // futex of the owner: changes when a result or an
                                                // end is there
  std::atomic<std::uint64_t>
      awaited;  // sequence + 1 that the owner sleeps for, or one of the above
};

/// How the owner of a pool and its workers sleep and wake each other. Whoever waits reads the count
/// of events, looks around, and sleeps only while the count is still the same.
///
/// Nobody sleeps for longer than a slice at a time, so a wake-up that is lost, because its sender
/// died or the kernel dropped it, costs a slice and no more.
///
/// A view of words in shared memory: copies speak of the same pool.
/// Thread-safety: any process or thread; `wait_for_done` by the owner alone.
class PoolEvents {
 public:
  static constexpr std::chrono::milliseconds kSlice{100};
  /// In place of a task's sequence number: any task.
  static constexpr std::uint64_t kAnyTask = PoolEventWords::kAny - 1;

  explicit PoolEvents(PoolEventWords& words) : words_(&words) {}

  // The end of the pool.
  /// Says that all workers shall end after their current items, and wakes them.
  void stop_workers() const;
  [[nodiscard]] bool is_stopping() const;

  // Workers.
  [[nodiscard]] std::uint32_t work_count() const;
  /// Sleeps until `work_count()` is no longer `seen`. Blocks: at most `kSlice`.
  void wait_for_work(WorkerRecord& worker, std::uint32_t seen) const;
  [[nodiscard]] bool has_sleepers() const;
  /// There is something new to do: costs no system call while no worker sleeps.
  void wake_workers() const;
  /// The same where one worker can do it.
  void wake_worker() const;
  /// The same for whoever does not rely on the count of sleepers.
  void wake_all_workers() const;
  /// A worker was killed that may have been asleep.
  void forget_sleeper(WorkerRecord& worker) const;

  // The owner.
  [[nodiscard]] std::uint32_t done_count() const;
  /// Sleeps until `done_count()` is no longer `seen`, which it was when the owner found that the
  /// task with number `sequence` was not finished. Blocks: at most `limit`, and never longer than
  /// `kSlice`.
  void wait_for_done(std::uint32_t seen, std::uint64_t sequence,
                     std::chrono::nanoseconds limit = kSlice) const;
  /// The task with this number is finished; wakes an owner that waits for it.
  void announce_done(std::uint64_t sequence) const;
  /// Wakes the owner, whatever it waits for.
  void wake_owner() const;

 private:
  PoolEventWords* words_;
};

}  // namespace lockstep::workers
