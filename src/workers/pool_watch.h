// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "concurrency/waited_time.h"
#include "workers/worker_host.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// Why a pool has no workers any more.
struct PoolLoss {
  enum class Kind { SupervisorEnded, NotStarted, NoneLeft, NoProgress, AllStuck };

  Kind kind = Kind::SupervisorEnded;
  int worker = -1;
  int pid = 0;
  int wait_status = 0;  ///< of `NotStarted`: errno
  std::string message;  ///< what a worker said before it ended
};

/// Notices, for the owner of a pool, what nobody reports: workers that are gone for good, and
/// threads that are stuck.
///
/// Thread-safety: none.
class PoolWatch {
 public:
  struct Stuck {
    std::size_t worker = 0;
    std::size_t slot = 0;
  };

  PoolWatch(const WorkerTable& table, bool has_threads, std::chrono::milliseconds timeout);

  /// Threads that have been at one task for longer than the timeout.
  [[nodiscard]] std::vector<Stuck> find_stuck();
  /// Why no worker works any more; `has_work`: whether one should. `stuck`: as many threads.
  [[nodiscard]] std::optional<PoolLoss> find_loss(WorkerHost& host, bool has_work,
                                                  std::size_t stuck);
  /// Workers that work, or are about to.
  [[nodiscard]] std::size_t workers_left() const;

 private:
  [[nodiscard]] PoolLoss loss_of_all() const;

  struct Seen {
    std::uint64_t heartbeats = 0;
    std::uint64_t item = 0;
    WaitedTime waited;
  };

  WorkerTable table_;
  bool has_threads_;
  std::chrono::milliseconds timeout_;
  std::vector<Seen> seen_;
  std::uint64_t all_heartbeats_ = 0;
  WaitedTime without_progress_;
};

}  // namespace lockstep::workers
