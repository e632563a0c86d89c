// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/loader/worker_error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "concurrency/waited_time.h"
#include "data/loader/worker_job.h"
#include "workers/worker_host.h"

namespace lockstep::data::detail {

/// A batch that the rank waits for, as far as workers are concerned.
struct AwaitedBatch {
  std::optional<std::size_t> slot;         ///< nothing: no slot was given to it
  std::optional<std::size_t> only_worker;  ///< nothing: any worker may build it
};

/// Knows what became of the workers: which have failed, ended or stopped making progress, and how
/// the rank learns of it.
///
/// Runs in the rank, in the thread that uses the loader. Thread-safety: none.
/// Owns: the workers, through their host; which of their ends have been reported.
class WorkerMonitor {
 public:
  WorkerMonitor(std::shared_ptr<const WorkerJob> job, const DataLoaderOptions& options,
                std::unique_ptr<workers::WorkerHost> host);

  /// Ends the workers; false when a thread is stuck, which may go on using the job.
  [[nodiscard]] bool stop_workers() noexcept;

  /// Each worker that has ended, and is not replaced, is reported once; the others go on. Where no
  /// worker is left, each batch has its own error instead (`why_nobody_builds`).
  /// Throws: `WorkerError`.
  void report_ended_workers();
  /// What a worker said about the batch in this slot, which is ready; nothing where it is there.
  [[nodiscard]] std::optional<WorkerError::Context> failure_of(std::size_t slot) const;
  /// Why no worker is left that could build the batch; nothing while there is one.
  [[nodiscard]] std::optional<WorkerError::Context> why_nobody_builds(const AwaitedBatch& batch);
  /// Whether `why_nobody_builds` has found that the workers' parent process is gone, and all of
  /// them with it.
  [[nodiscard]] bool has_lost_supervisor() const noexcept { return supervisor_status_.has_value(); }

  /// One wait of the rank for a batch. All of its time is a stall.
  class Wait {
   public:
    explicit Wait(WorkerMonitor& monitor);
    ~Wait();
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

    /// Why the rank waits no longer: nothing happened for too long. Nothing until then.
    [[nodiscard]] std::optional<WorkerError::Context> why_timed_out(const AwaitedBatch& batch);
    /// Sleeps until a worker has something to tell about task `sequence`, or for a moment; `seen`
    /// is the channel's `done_count` from before the caller looked.
    void sleep(std::uint32_t seen, std::uint64_t sequence) const;

   private:
    using Clock = std::chrono::steady_clock;
    WorkerMonitor& monitor_;
    Clock::time_point start_ = Clock::now();
    // No sleep is longer: or it would be taken for one in which this process did not run.
    Clock::duration slice_;
    WaitedTime waited_;
    std::uint64_t signs_ = 0;
  };

  void add_to(LoaderStatistics& statistics) const;

 private:
  [[nodiscard]] bool is_lost(std::size_t worker) const;
  [[nodiscard]] bool is_lost_to_all(const AwaitedBatch& batch) const;
  [[nodiscard]] std::chrono::milliseconds patience() const;
  [[nodiscard]] std::uint64_t signs_of_progress(const AwaitedBatch& batch) const;
  [[nodiscard]] WorkerError::Context timeout_after(std::chrono::duration<double> waited,
                                                   const AwaitedBatch& batch) const;
  [[nodiscard]] std::optional<std::size_t> suspect(const AwaitedBatch& batch) const;
  void name(WorkerError::Context& context, std::size_t worker) const;

  std::shared_ptr<const WorkerJob> job_;
  workers::TaskChannel& channel_;  // the job's
  std::chrono::milliseconds timeout_;
  std::chrono::milliseconds start_timeout_;  // until a worker is ready for its first sample
  std::vector<bool> reported_;               // by worker: its end has been thrown
  std::optional<int> supervisor_status_;     // once that process has ended
  double stall_seconds_ = 0;
  std::unique_ptr<workers::WorkerHost> host_;
};

}  // namespace lockstep::data::detail
