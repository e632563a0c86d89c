// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "workers/pool_memory.h"
#include "workers/pool_task.h"
#include "workers/pool_worker.h"
#include "workers/task_channel.h"
#include "workers/worker_host.h"

namespace lockstep::workers {

/// What a pool is made of.
struct PoolPlan {
  PoolMemory::Shape shape;
  bool has_threads = false;
  std::chrono::milliseconds timeout = std::chrono::minutes(10);  ///< at most ten years count
  std::uint32_t attempts = 1;                                    ///< workers that a task may end
  std::function<void(std::size_t)> start;  ///< in each worker, before its first task
  PoolFunction function;                   ///< in worker processes
  ExceptionText text;                      ///< of what tasks throw; nothing: `what()`
};

/// The tasks in the slots. The owner of the pool writes a place while the slot is Free or Ready,
/// and the thread that has claimed the slot's task reads it.
struct PoolJobs {
  std::vector<std::shared_ptr<PoolTask>> by_slot;

  /// A worker of a pool of threads. Blocks: until the pool is closed.
  void run_thread(TaskChannel& channel, std::size_t worker, const ExceptionText& text) const;
};

/// What the workers of a pool run. `jobs`: of a pool of threads; else null.
[[nodiscard]] WorkerProgram program_of(const PoolPlan& plan,
                                       const std::shared_ptr<PoolMemory>& memory,
                                       const std::shared_ptr<PoolJobs>& jobs,
                                       std::chrono::milliseconds timeout);

}  // namespace lockstep::workers
