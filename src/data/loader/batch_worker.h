// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "data/loader/collated_batches.h"
#include "data/loader/pending_samples.h"
#include "data/loader/read_ahead.h"
#include "data/loader/row_writer.h"
#include "data/loader/slot_memory.h"
#include "data/loader/upcoming_tasks.h"
#include "data/loader/worker_job.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// The loop of one worker: claims samples, and has them fetched and written where the rank will
/// read them.
///
/// Runs in the worker only. Touches no CUDA, MPI or autograd. Thread-safety: none; one thread runs
/// it. Owns: its parts, and the worker's clocks.
class BatchWorker {
 public:
  /// How long a thread that ends waits for samples that are under way.
  static constexpr std::chrono::milliseconds kPendingPatience{1000};

  BatchWorker(const WorkerJob& job, std::size_t worker);

  /// Blocks: until the pool stops.
  /// Throws: what the user's init function throws.
  void run();

 private:
  using Clock = std::chrono::steady_clock;

  void work(const workers::Claim& claim);
  void look_ahead(const workers::Claim& claim);
  void tell_pending(std::size_t most, const UseUpcoming& use);
  [[nodiscard]] bool keeps_waiting();
  void count_idle();
  void count_busy();

  std::unique_ptr<PendingSamples> pending_;  // of a dataset with `get_async`
  std::optional<WorkerJob> own_job_;         // then: its samples come from there
  const WorkerJob& job_;
  workers::TaskChannel& channel_;  // the job's
  std::size_t worker_;
  UpcomingTasks upcoming_;
  std::optional<ReadAhead> read_ahead_;    // of a dataset that names its files
  const workers::Claim* claim_ = nullptr;  // what this worker is at
  std::size_t careful_claims_ = 0;         // that are still to come
  SlotMemory memory_;
  RowWriter rows_;           // where samples have rows of their own in a batch
  CollatedBatches batches_;  // where they have none
  Clock::time_point since_;
  Clock::time_point clocks_read_;
  std::uint64_t on_cpu_ = 0;
  std::uint64_t delayed_ = 0;
};

}  // namespace lockstep::data::detail
