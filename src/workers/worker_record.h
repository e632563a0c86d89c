// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace lockstep::workers {

enum class WorkerState : std::uint32_t {
  Starting,     ///< forked or about to be; has not taken work yet
  Running,      ///< its initialisation is over
  GivenUp,      ///< ended again and again before it took work, and is not replaced any more
  StartFailed,  ///< fork failed; `wait_status` holds errno
};

/// Why the fork server killed a worker.
enum class KillReason : std::uint32_t { None, NoProgress, TooMuchMemory };

/// What a worker is at: an item of a slot's task, or the task and none of its items (`kNoItem`).
struct CurrentItem {
  static constexpr std::size_t kNoItem = 0xffff'ffffU;
  static constexpr std::uint64_t kNothing = 0;

  std::size_t slot = 0;
  std::size_t position = 0;

  [[nodiscard]] constexpr std::uint64_t word() const {
    return (static_cast<std::uint64_t>(slot) + 1) << 32 | static_cast<std::uint32_t>(position);
  }
  /// Nothing where the worker is at nothing.
  [[nodiscard]] static constexpr std::optional<CurrentItem> of(std::uint64_t word) {
    if (word == kNothing) return std::nullopt;
    return CurrentItem{static_cast<std::size_t>(word >> 32) - 1,
                       static_cast<std::size_t>(word & 0xffff'ffffU)};
  }
};

/// What everybody knows about one worker. Lies in shared memory, zeroed at first.
///
/// Thread-safety: all processes of the pool; each member says who writes it, if not the worker.
struct WorkerRecord {
  static constexpr std::size_t kMessageBytes = 480;

  std::atomic<WorkerState> state;  // written by the fork server; Running by the worker itself
  std::atomic<std::int32_t> pid;   // written by the fork server; 0 where workers are threads
  std::atomic<std::int32_t> wait_status;  // of the last process that ended under this number
  std::atomic<std::uint32_t> restarts;
  std::atomic<KillReason> kill_reason;      // written by the fork server
  std::atomic<std::uint32_t> retire;        // 1: end between two items, somebody else takes over
  std::atomic<std::uint32_t> sleeps;        // counted in PoolEventWords::sleepers
  std::atomic<std::uint64_t> current_item;  // the word of a `CurrentItem`
  std::atomic<std::uint64_t> heartbeats;    // changes with each item begun
  // Nanoseconds since the first worker of this number started, for statistics.
  std::atomic<std::uint64_t> busy;     // with items
  std::atomic<std::uint64_t> on_cpu;   // of these, computing
  std::atomic<std::uint64_t> delayed;  // ready to compute, but no core was free
  std::atomic<std::uint64_t> idle;     // nothing to do
  char message[kMessageBytes];  // why the worker gave up, if it could say; written before it ended
};

static_assert(std::atomic<WorkerState>::is_always_lock_free);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace lockstep::workers
