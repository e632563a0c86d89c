// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/payload.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "workers/failure.h"

namespace lockstep::workers {

/// What has become of a task.
enum class TaskEnd {
  None,       ///< it waits or runs
  Result,     ///< it has a result
  Failed,     ///< `failure` says why not
  Cancelled,  ///< it never began
  Lost,       ///< the pool was closed before, or has no workers any more
};

/// Tasks of one `map` that are over and that nobody has taken, in this order.
struct PoolTaskGroup {
  std::deque<std::size_t> over;  // their places; guarded by the pool's lock
};

/// A task as the owner of the pool knows it. A pool of threads runs it where it is.
///
/// Thread-safety: the pool's lock guards it until it is over; then it does not change any more.
class PoolTask {
 public:
  PoolTask() = default;
  virtual ~PoolTask() = default;
  PoolTask(const PoolTask&) = delete;
  PoolTask& operator=(const PoolTask&) = delete;

  /// In a pool of threads, called by a worker.
  /// Throws: what the program's function throws.
  virtual void run() = 0;
  /// Lets go of what `run` would have used: nobody calls it any more.
  virtual void drop() noexcept {}

  std::size_t number = 0;  ///< for messages; without one, that of the pool's tasks so far
  bool has_number = false;
  std::shared_ptr<PoolTaskGroup> group;
  std::size_t place = 0;  ///< in the group

  TaskEnd end = TaskEnd::None;
  Failure failure;
  // The result of a process: its bytes, or the memory that has them, and the blocks it mentions.
  std::string result_bytes;
  std::shared_ptr<PayloadMemory> result;
  std::vector<std::shared_ptr<PayloadMemory>> result_blocks;

  // While it waits or runs.
  std::uint64_t sequence = 0;
  std::size_t slot = 0;
  std::vector<std::shared_ptr<PayloadMemory>> arguments;
};

}  // namespace lockstep::workers
