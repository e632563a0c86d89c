// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::workers {

enum class WorkerState : std::uint32_t {
  Starting,     ///< forked or about to be; has not taken work yet
  Running,      ///< its initialisation is over
  GivenUp,      ///< ended again and again before it took work, and is not replaced any more
  StartFailed,  ///< fork failed; `wait_status` holds errno
};

/// Why the fork server ended a worker that did not end by itself.
enum class KillReason : std::uint32_t { None, NoProgress, TooMuchMemory };

/// What everybody knows about one worker. Lies in shared memory, zeroed at first.
struct WorkerRecord {
  static constexpr std::size_t kMessageBytes = 480;
  static constexpr std::uint64_t kNothing = 0;

  std::atomic<WorkerState> state;  // written by the fork server; Running by the worker itself
  std::atomic<std::int32_t> pid;   // written by the fork server; 0 where workers are threads
  std::atomic<std::int32_t> wait_status;  // of the last process that ended under this number
  std::atomic<std::uint32_t> restarts;
  std::atomic<KillReason> kill_reason;      // written by the fork server
  std::atomic<std::uint32_t> retire;        // 1: end between two items, somebody else takes over
  std::atomic<std::uint32_t> sleeps;        // counted in PoolEventWords::sleepers
  std::atomic<std::uint64_t> current_item;  // the item that the worker is at, or kNothing
  std::atomic<std::uint64_t> heartbeats;    // changes with each item begun
  // Nanoseconds since the first worker of this number started, for statistics.
  std::atomic<std::uint64_t> busy;     // with items
  std::atomic<std::uint64_t> on_cpu;   // of these, computing
  std::atomic<std::uint64_t> delayed;  // ready to compute, but no core was free
  std::atomic<std::uint64_t> idle;     // nothing to do
  char message[kMessageBytes];  // why the worker gave up, if it could say; written before it ended
};

/// A position in `current_item_word`: the worker is at the task, but at none of its items.
constexpr std::size_t kNoItem = 0xffff'ffffU;

/// The word in `WorkerRecord::current_item`.
[[nodiscard]] constexpr std::uint64_t current_item_word(std::size_t slot, std::size_t position) {
  return (static_cast<std::uint64_t>(slot) + 1) << 32 | static_cast<std::uint32_t>(position);
}

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

static_assert(std::atomic<WorkerState>::is_always_lock_free);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// View of both.
struct WorkerTable {
  PoolEventWords* events = nullptr;
  std::span<WorkerRecord> workers;
};

}  // namespace lockstep::workers
