// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <optional>

#include "native/posix/child_process.h"
#include "native/posix/file_descriptor.h"
#include "workers/worker_host.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// Worker processes that run one function over shared memory, started through a fork server.
///
/// Workers die with the process that built the host, however it ends.
///
/// Thread-safety: none; one thread owns it.
/// Owns: the fork server, which owns the workers.
class ForkedWorkers : public WorkerHost {
 public:
  /// Forks the fork server; the workers start in the background. `table` must outlive this object.
  /// Throws: `std::system_error` when the fork server cannot be forked.
  ForkedWorkers(const WorkerTable& table, const WorkerProgram& program);
  /// Those that do not end with the current item are killed. In a copy of this object that a fork
  /// of the program's took along nothing happens.
  /// Blocks: a few milliseconds as a rule, a second where workers are stuck, and on a busy machine
  /// until the killed fork server has had a core to end on (at most 31 s).
  ~ForkedWorkers() override;

  bool stop() noexcept override;
  [[nodiscard]] bool replaces_workers() const noexcept override { return true; }
  [[nodiscard]] int supervisor_pid() const noexcept override { return fork_server_.pid(); }
  [[nodiscard]] std::optional<int> supervisor_status() noexcept override {
    return fork_server_.wait(std::chrono::milliseconds(0));
  }

 private:
  // Both ends until the fork; then each side keeps its own.
  struct SocketPair {
    SocketPair();
    native::FileDescriptor owner;
    native::FileDescriptor fork_server;
  };

  native::OwningProcess owner_;
  WorkerTable table_;
  SocketPair sockets_;
  native::ChildProcess fork_server_;
  bool has_stopped_ = false;
};

}  // namespace lockstep::workers
