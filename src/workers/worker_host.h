// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "workers/worker_table.h"

namespace lockstep::workers {

/// What the workers of a pool run, and what is asked of them.
struct WorkerProgram {
  /// One worker, until the table says stop. What it throws becomes the worker's `message` and exit
  /// status 1.
  std::function<void(std::size_t worker)> run;
  /// Runs in the fork server after a worker has ended and before it is replaced: what it had
  /// claimed is made available again. Only code of this library.
  std::function<void(std::size_t worker)> repair;
  /// Inherited descriptors that stay open in all processes.
  std::vector<int> keep_descriptors;
  /// A worker that is at one item for longer is killed.
  std::chrono::milliseconds timeout = std::chrono::minutes(1);
  /// And so is one that takes longer to be ready for its first.
  std::chrono::milliseconds start_timeout = std::chrono::minutes(1);
  /// Threads that take longer to end are left alone.
  std::chrono::milliseconds end_timeout = std::chrono::seconds(2);
  /// Whether a worker that was ready once is started again however often those after it end before
  /// they are; else three such ends in a row are its last. `run` makes the pauses between them.
  bool restarts_without_end = false;
  /// A worker with more anonymous memory than this is replaced between two items, one with half as
  /// much again is killed at once; 0: no limit.
  std::size_t memory_limit = 0;
};

/// Keeps the workers of a pool going, as processes or as threads.
///
/// Thread-safety: none; one thread owns a host.
class WorkerHost {
 public:
  WorkerHost() = default;
  /// Stops all workers, if nobody has.
  virtual ~WorkerHost() = default;
  WorkerHost(const WorkerHost&) = delete;
  WorkerHost& operator=(const WorkerHost&) = delete;

  /// Stops all workers; whether none is left that is stuck. Nothing else may be asked after it.
  /// Blocks: as the destructor.
  virtual bool stop() noexcept = 0;
  /// Whether workers that hang or die are dealt with by the host itself.
  [[nodiscard]] virtual bool replaces_workers() const noexcept = 0;
  /// Process that watches over the workers; this one where they are threads.
  [[nodiscard]] virtual int supervisor_pid() const noexcept = 0;
  /// How that process ended, if it did; its workers are dead then too. Each later call says the
  /// same.
  [[nodiscard]] virtual std::optional<int> supervisor_status() noexcept = 0;
};

}  // namespace lockstep::workers
