// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/worker_kind.h>
#include <torch/arg.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace lockstep {

/// What `TaskPool::submit` does when the queue is full.
///
/// Thread-safety: a value.
enum class WhenFull {
  Wait,   ///< waits until a task is over, `TaskPoolOptions::submit_timeout` at most
  Throw,  ///< throws `TaskQueueFullError` at once
};

/// What a `TaskPool` is told.
///
/// Thread-safety: a value.
struct LOCKSTEP_API TaskPoolOptions {
  /// The most `workers`.
  static constexpr std::int64_t kMaxWorkers = 1024;
  /// The most tasks in the `queue`.
  static constexpr std::int64_t kMaxQueue = 65536;

  /// Workers, 1 to `kMaxWorkers`.
  TORCH_ARG(std::int64_t, workers) = 2;
  /// What the workers are: `Process` or `Thread`.
  TORCH_ARG(WorkerKind, kind) = WorkerKind::Process;
  /// Tasks that wait, run, or are over without anybody having looked, 1 to `kMaxQueue`. Each takes
  /// 4 KiB and more of shared memory from the start. Whoever looks for a task, a result or a block
  /// looks at as many as there ever were at once, so each task costs more time where the queue has
  /// held tens of thousands.
  TORCH_ARG(std::int64_t, queue) = 64;
  /// What `submit` does when the queue is full.
  TORCH_ARG(WhenFull, when_full) = WhenFull::Wait;
  /// The longest that `submit` waits for room in the queue; then it throws `TaskQueueFullError`.
  TORCH_ARG(std::chrono::milliseconds, submit_timeout) = std::chrono::minutes(60);
  /// A worker process that is at one task for longer is killed and replaced; ten years at most. A
  /// thread cannot be ended: whoever waits for its task gets a `TaskError`, and the thread goes on.
  /// When all threads are like that and tasks wait, the pool is lost (`WorkerFailedError`).
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(10);
  /// How many workers a task may end before it fails, 1 to 100. With more than one, a task must
  /// bear being done twice. It finds its arguments as they were, from a copy of its own; but
  /// tensors that are shared with the program (`TaskPool::empty`, results) as the first try left
  /// them.
  TORCH_ARG(std::int64_t, attempts) = 1;
  /// Threads of LibTorch's operators in each worker process. With more than 1, the program must
  /// not have run a parallel operator before it makes the pool.
  TORCH_ARG(std::int64_t, operator_threads) = 1;
  /// Results that may lie in the memory of the pool while the program has them, 0 to `kMaxQueue`; a
  /// result beyond that is copied, and no other thread can use the pool meanwhile.
  TORCH_ARG(std::int64_t, leases) = 64;
  /// Called by the thread that takes results of a `map`, after each of them, with the number of
  /// items that are over and the number of all (0 if the range cannot say it).
  TORCH_ARG(std::function<void(std::size_t, std::size_t)>, progress) = nullptr;
  /// Called in each worker before its first task, with the number of the worker.
  TORCH_ARG(std::function<void(std::size_t)>, worker_init) = nullptr;
};

}  // namespace lockstep
