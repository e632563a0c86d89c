// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <optional>

#include "native/posix/child_process.h"
#include "native/posix/file_descriptor.h"
#include "workers/nursery.h"
#include "workers/worker_board.h"

namespace lockstep::workers {

/// Worker processes that run one function over shared memory, started through a nursery.
///
/// Workers die with the process that built the pool, however it ends.
///
/// Thread-safety: none; one thread owns a pool.
/// Owns: the nursery, which owns the workers.
class WorkerPool {
 public:
  /// Forks the nursery; the workers start in the background. `board` must outlive the pool.
  /// Throws: `std::system_error` when the nursery cannot be forked.
  WorkerPool(const WorkerBoard& board, const WorkerProgram& program);
  /// Stops all workers: those that do not end with the sample in hand are killed.
  /// Blocks: at most 2 s, a few milliseconds as a rule.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  [[nodiscard]] pid_t nursery_pid() const noexcept { return nursery_.pid(); }
  /// How the nursery ended, if it did; its workers are dead then too.
  [[nodiscard]] std::optional<int> nursery_status() noexcept {
    return nursery_.wait(std::chrono::milliseconds(0));
  }

 private:
  // Both ends until the fork; then each side keeps its own.
  struct SocketPair {
    SocketPair();
    native::FileDescriptor owner;
    native::FileDescriptor nursery;
  };

  WorkerBoard board_;
  SocketPair sockets_;
  native::ChildProcess nursery_;
};

}  // namespace lockstep::workers
