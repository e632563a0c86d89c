// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <unistd.h>

#include <memory>
#include <optional>

#include "native/posix/owning_process.h"
#include "workers/worker_host.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// The same as `ForkedWorkers` with threads of this process. A thread that crashes takes the
/// process along, and one that hangs cannot be ended.
///
/// Owns: the threads. `program` holds whatever they use: a thread that is stuck when the host goes
/// keeps its copy.
class ThreadWorkers : public WorkerHost {
 public:
  /// Throws: `std::system_error` when a thread cannot be had; the others have ended then.
  ThreadWorkers(const WorkerTable& table, const WorkerProgram& program);
  /// Blocks: for the current items, at most `WorkerProgram::end_timeout`; then the threads that are
  /// stuck are left alone.
  ~ThreadWorkers() override;

  bool stop() noexcept override;
  [[nodiscard]] bool replaces_workers() const noexcept override { return false; }
  [[nodiscard]] int supervisor_pid() const noexcept override { return ::getpid(); }
  [[nodiscard]] std::optional<int> supervisor_status() noexcept override { return std::nullopt; }

 private:
  struct Threads;

  void start_all();

  native::OwningProcess owner_;
  WorkerTable table_;
  std::shared_ptr<Threads> threads_;
  bool has_stopped_ = false;
};

}  // namespace lockstep::workers
