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
  Ended,        ///< reaped; `wait_status` holds what wait(2) said
  StartFailed,  ///< fork failed; `wait_status` holds errno
};

/// What everybody knows about one worker. Lies in shared memory, zeroed at first.
struct WorkerRecord {
  static constexpr std::size_t kMessageBytes = 480;

  std::atomic<WorkerState> state;  // written by the nursery, and by the worker itself for Running
  std::atomic<std::int32_t> pid;   // written by the nursery
  std::atomic<std::int32_t> wait_status;  // valid from Ended on
  char message[kMessageBytes];  // why the worker gave up, if it could say; written before it ended
};

/// Words that all processes of one pool watch. Lies in shared memory, zeroed at first.
struct BoardHeader {
  alignas(64) std::atomic<std::uint32_t> stop;  // 1: workers end after the sample in hand
  alignas(64) std::atomic<std::uint32_t> work;  // futex of the workers: changes when there is
                                                // something new to do
  alignas(64) std::atomic<std::uint32_t> done;  // futex of the owner: changes when a result or an
                                                // end is there
};

static_assert(std::atomic<WorkerState>::is_always_lock_free);

/// View of both.
struct WorkerBoard {
  BoardHeader* header = nullptr;
  std::span<WorkerRecord> workers;
};

}  // namespace lockstep::workers
