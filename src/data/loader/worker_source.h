// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/worker_error.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "data/loader/batch_delivery.h"
#include "data/loader/batch_scheduler.h"
#include "data/loader/batch_source.h"
#include "data/loader/worker_job.h"
#include "data/loader/worker_monitor.h"
#include "native/posix/owning_process.h"

namespace lockstep::data::detail {

/// Has workers build the batches, and hands them out in order: the scheduler gives them out, the
/// monitor says why one does not come, and the delivery makes tensors of it.
///
/// Runs in the rank, in the thread that uses the loader. Thread-safety: none.
/// Owns: its parts, and through them the workers and the memory that they share with the rank.
class WorkerSource : public BatchSource {
 public:
  /// Throws: `std::system_error` when memory, processes or threads cannot be had.
  WorkerSource(SampleSource source, const BatchFacts& facts, const DataLoaderOptions& options);
  ~WorkerSource() override;

  void pin_batches(std::shared_ptr<native::HostPinning> pinning) override;
  void start(PassPlan plan) override;
  void prepare(std::function<PassPlan()> plan) override;
  [[nodiscard]] bool start_prepared() override;
  [[nodiscard]] bool has_next() override;
  [[nodiscard]] SampleTree next() override;
  [[nodiscard]] bool is_ready() override;
  [[nodiscard]] std::size_t delivered() const override { return scheduler_.delivered(); }
  [[nodiscard]] LoaderStatistics statistics() const override;

 private:
  using Overview = BatchScheduler::Overview;
  // A batch that is lost at its turn, and why: `has_next` and `is_ready` find out, `next` says it.
  struct GivenUp {
    std::uint64_t sequence = 0;
    bool is_there = false;  // otherwise it was waited for in vain, and may still come
    WorkerError::Context reason;
  };

  WorkerSource(const std::shared_ptr<WorkerJob>& job, const DataLoaderOptions& options);
  void begin_pass();
  Overview give_out();
  // Waits for a batch that is there; none is next at the end of an iterable dataset.
  [[nodiscard]] Overview await();
  void await_end(std::size_t slot);
  [[nodiscard]] std::optional<WorkerError::Context> why_given_up(const AwaitedBatch& batch,
                                                                 WorkerMonitor::Wait& wait);
  [[nodiscard]] AwaitedBatch awaited(std::optional<std::size_t> slot) const;
  [[nodiscard]] bool should_skip(std::size_t slot);
  [[nodiscard]] bool is_given_up(const Overview& seen) const;
  [[noreturn]] void lose(std::optional<std::size_t> slot, WorkerError::Context context);

  native::OwningProcess process_;
  std::shared_ptr<WorkerJob> job_;
  BatchScheduler scheduler_;
  BatchDelivery delivery_;
  std::optional<GivenUp> given_up_;
  WorkerMonitor monitor_;  // last: its workers run on all of the above
};

}  // namespace lockstep::data::detail
