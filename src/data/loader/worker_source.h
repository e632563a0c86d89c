// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/worker_error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "concurrency/deadline.h"
#include "data/loader/batch_source.h"
#include "data/loader/batch_worker.h"
#include "data/loader/sample_policy.h"
#include "data/loader/slot_parking.h"
#include "native/posix/owning_process.h"
#include "workers/shared_memory_channel.h"
#include "workers/worker_host.h"

namespace lockstep::data::detail {

/// Has workers build the batches, and hands their slots out as tensors, in order.
///
/// Each batch of a pass has a sequence number that is never used again, so results of an abandoned
/// pass cannot be mistaken for anything else. A slot is given to the oldest batch that has none, so
/// the batch that is waited for always owns one; when the program keeps so many that fewer than
/// workers + 1 would circulate, it gets a copy instead.
///
/// Owns: the workers, and the ring together with the batches that the program still holds.
class WorkerSource : public BatchSource {
 public:
  /// Throws: `std::system_error` when memory, processes or threads cannot be had.
  WorkerSource(SampleSource source, const BatchFacts& facts, const DataLoaderOptions& options);
  ~WorkerSource() override;

  void pin_batches(std::shared_ptr<native::HostPinning> pinning) override {
    pinning_ = std::move(pinning);
  }
  void start(PassPlan plan) override;
  void prepare(std::function<PassPlan()> plan) override;
  [[nodiscard]] bool start_prepared() override;
  [[nodiscard]] bool has_next() override;
  [[nodiscard]] SampleTree next() override;
  [[nodiscard]] bool is_ready() override;
  [[nodiscard]] std::size_t passed() const override { return next_; }
  [[nodiscard]] LoaderStatistics statistics() const override;

 private:
  using Clock = std::chrono::steady_clock;
  // What the rank remembers of a slot that it has given away.
  enum class Use { None, Live, Ahead, Stale };  // Ahead: of the pass that may come next
  struct Slot {
    Use use = Use::None;
    std::size_t batch = 0;  // within its pass
    ShardRound::Turn turn;  // of an iterable dataset
  };

  [[nodiscard]] std::uint64_t sequence() const { return now_.base + next_; }
  // Batches of a pass are given out in order.
  struct Pass {
    PassPlan plan;
    std::uint64_t base = 1;    // sequence of batch 0
    std::size_t assigned = 0;  // batches that got a slot
    std::exception_ptr error;  // of its plan; for the turn of the batch after those
  };

  // What there is to see of the slots, in one look at each: workers write to that memory.
  struct Overview {
    // Of the batch that comes next: the oldest. In any order, the oldest that is ready, if one is.
    std::optional<std::size_t> next;
    bool next_is_ready = false;
    std::size_t ready = 0;  // batches of this pass
    std::size_t held = 0;   // by the program
  };

  void begin_pass();
  Overview give_out_work();
  [[nodiscard]] Overview look() const;
  void see(Overview& overview, std::size_t slot, workers::SlotState state) const;
  [[nodiscard]] Pass* pass_to_assign();
  [[nodiscard]] bool give_out(std::size_t slot);
  void assign(std::size_t slot, Pass& pass);
  [[nodiscard]] Pass* pass_ahead();
  void divide(workers::Task& task) const;
  [[nodiscard]] bool may_share_whole() const;
  [[nodiscard]] std::optional<std::uint64_t> cost_of_sample(std::size_t enough) const;
  void take_back(std::size_t slot);

  class Wait;

  // Waits for a batch that is there; none is next at the end of an iterable dataset.
  [[nodiscard]] Overview await();
  [[nodiscard]] bool passes_over(std::size_t slot);
  [[nodiscard]] std::size_t count_samples(std::size_t slot);
  void warn_of_missing(std::size_t slot);
  void check_failed(std::size_t slot);
  [[nodiscard]] bool is_lost(std::size_t worker) const;
  [[nodiscard]] bool is_lost_to_all(std::optional<std::size_t> slot) const;
  [[nodiscard]] std::chrono::milliseconds patience() const;
  [[nodiscard]] bool may_be_over() const;
  void await_end(std::size_t slot);
  void check_workers();
  void check_anyone_left(std::optional<std::size_t> slot);
  [[noreturn]] void throw_timeout(std::optional<std::size_t> slot, double seconds);
  [[noreturn]] void give_up_batch(std::optional<std::size_t> slot, WorkerError::Context context);
  void name_culprit(WorkerError::Context& context, std::optional<std::size_t> slot) const;
  [[nodiscard]] std::uint64_t signs_of_progress(std::optional<std::size_t> slot) const;
  void move_layout_turn();

  [[nodiscard]] SampleTree deliver(std::size_t slot, std::size_t held);
  [[nodiscard]] SampleTree open(std::size_t slot, bool keep_a_copy, bool& was_copied);
  [[nodiscard]] std::vector<std::int64_t> rows_of(std::size_t slot) const;
  void pin_ring(std::size_t slot);
  [[nodiscard]] SampleTree open_rows(std::size_t slot, bool keep_a_copy, bool& was_copied);
  [[nodiscard]] SampleTree open_whole(std::size_t slot, bool keep_a_copy, bool& was_copied);
  [[nodiscard]] std::byte* slot_memory(std::size_t slot);

  native::OwningProcess process_;
  BatchFacts facts_;
  std::size_t workers_;
  std::chrono::milliseconds timeout_;
  std::chrono::milliseconds start_timeout_;  // until a worker is ready for its first sample
  bool in_order_;
  bool may_leave_out_;  // samples, of what is no stream
  bool replaces_;
  SamplePolicy on_failed_sample_;
  MissingSampleWarning missing_;
  std::shared_ptr<WorkerJob> job_;
  std::shared_ptr<workers::SharedMemoryChannel> channel_;  // shared with the batches handed out
  std::shared_ptr<native::HostPinning> pinning_;           // none: batches are not pinned
  std::shared_ptr<SlotParking> parking_;  // of the ring once it is pinned, likewise shared
  std::vector<Slot> slots_;
  std::vector<bool> reported_;  // by worker: its end has been thrown
  std::optional<SampleLayout> layout_;
  Pass now_;
  std::optional<Pass> ahead_;          // what may follow, since all batches of `now_` are given out
  std::function<PassPlan()> prepare_;  // makes its plan; empty: nothing follows
  ShardRound round_;
  std::vector<std::int64_t> items_;
  std::uint64_t pass_ = 0;
  std::size_t next_ = 0;  // batches of this pass that were delivered, lost or passed over
  bool has_warned_ = false;
  bool supervisor_is_dead_ = false;
  LoaderStatistics statistics_;
  std::uint64_t depth_sum_ = 0;
  std::uint64_t asked_ = 0;
  Clock::time_point last_taken_;
  std::unique_ptr<workers::WorkerHost> host_;  // last: it runs on all of the above
};

}  // namespace lockstep::data::detail
