// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/loader_input.h>
#include <lockstep/data/loader/loader_statistics.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader/batch_source.h"
#include "data/loader/worker_job.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// Gives the batches of a pass out to the workers, in slots that are free; then those of the pass
/// that may come next.
///
/// Each batch of a pass has a sequence number that is never used again, so results of an abandoned
/// pass cannot be mistaken for anything else. A slot is given to the oldest batch that has none, so
/// the batch that is waited for always owns one.
///
/// Runs in the rank, in the thread that uses the loader. Thread-safety: none.
/// Owns: which batch is in which slot, the plans of both passes, and how far the program is.
class BatchScheduler {
 public:
  /// The states of all slots. Each slot is read once, because workers write to that memory.
  struct Overview {
    /// The slot of the batch that comes next: the oldest. In any order, the oldest that is ready,
    /// if one is.
    std::optional<std::size_t> next;
    bool next_is_ready = false;
    std::size_t ready = 0;  ///< batches of this pass
    std::size_t held = 0;   ///< by the program
  };

  BatchScheduler(std::shared_ptr<const WorkerJob> job, const DataLoaderOptions& options);

  // Passes. `give_out` gives their batches out.
  void start(PassPlan plan);
  /// Keeps `plan`, and asks it when all batches of this pass are given out.
  void prepare(std::function<PassPlan()> plan);
  /// Makes the prepared pass the current one. False when no pass was prepared, or its plan failed.
  [[nodiscard]] bool start_prepared();

  // Slots.
  /// Takes back batches that are of no use any more, and gives a batch to each slot that is free.
  Overview give_out();
  /// From now on nothing is given out: there are no workers any more.
  void stop() noexcept { is_stopped_ = true; }
  /// Until the layout of samples is known, sees to it that the batch that the rank waits for
  /// decides it.
  void move_layout_turn();
  /// Frees what workers have left in slots that the program does not hold, when they are gone.
  void drop_unfinished() noexcept;

  // The batch that comes next.
  /// Whether there may be more batches in this pass, beside those that have a slot.
  [[nodiscard]] bool expects_more() const;
  /// Throws: what the plan threw. To be asked when no batch of this pass has a slot.
  void throw_error_of_plan() const;
  /// The number for which the workers wake a rank that waits for this slot's batch.
  [[nodiscard]] std::uint64_t awaited_sequence(std::optional<std::size_t> slot) const;
  /// The only worker that may build the slot's batch; nothing where any may.
  [[nodiscard]] std::optional<std::size_t> only_worker(std::optional<std::size_t> slot) const;
  /// Batches of this pass that the program has, or that are lost or skipped.
  [[nodiscard]] std::size_t delivered() const noexcept { return next_; }

  // What becomes of a batch at its turn.
  /// Notes that the shard of this slot, which is ready, has ended, if the batch is not full.
  void note_end_of_shard(std::size_t slot);
  /// There is nothing in it for the program; the slot is free.
  void skip(std::size_t slot);
  /// The slot is the caller's, which gives it back. Returns the number of its batch in the pass.
  [[nodiscard]] std::size_t hand_over(std::size_t slot);
  /// The batch will not come, whether a slot was given to it or not. Returns its number.
  [[nodiscard]] std::size_t lose(std::optional<std::size_t> slot);

  /// The program has asked for a batch, and this is what it found.
  void count_request(const Overview& seen) noexcept;
  void add_to(LoaderStatistics& statistics) const;

 private:
  // Live: a batch of this pass. Ahead: of the pass that may come next. Stale: of no use any more.
  enum class Use { None, Live, Ahead, Stale };
  struct Slot {
    Use use = Use::None;
    std::size_t batch = 0;  // how many of its pass were given out before it
    ShardRound::Turn turn;  // of an iterable dataset
  };
  // Batches of a pass are given out in order.
  struct Pass {
    PassPlan plan;
    std::uint64_t base = 1;    // sequence of batch 0
    std::size_t assigned = 0;  // batches that got a slot
    std::exception_ptr error;  // of its plan; for the turn of the batch after those
  };

  void begin_pass();
  [[nodiscard]] workers::SlotState take_back_stale(std::size_t slot, workers::SlotState state);
  [[nodiscard]] bool pass_on(std::size_t slot);
  void take_back(std::size_t slot);
  [[nodiscard]] bool try_assign(std::size_t slot);
  [[nodiscard]] Pass* pass_to_assign();
  [[nodiscard]] Pass* pass_ahead();
  void assign(std::size_t slot, Pass& pass);
  void choose_shard(std::size_t slot, workers::Task& task);
  void choose_samples(const Pass& pass, workers::Task& task);
  void divide(workers::Task& task) const;
  [[nodiscard]] bool may_share_whole() const;
  [[nodiscard]] std::optional<std::uint64_t> cost_of_sample(std::size_t enough) const;
  void see(Overview& overview, std::size_t slot, workers::SlotState state) const;
  [[nodiscard]] std::uint64_t next_sequence() const;
  [[nodiscard]] std::size_t number_of(std::size_t slot) const;

  std::shared_ptr<const WorkerJob> job_;
  workers::TaskChannel& channel_;  // the job's
  bool in_order_;
  bool replaces_;  // samples, by such as follow the batch
  bool is_stopped_ = false;
  std::vector<Slot> slots_;
  Pass now_;
  std::optional<Pass> ahead_;          // what may follow, since all batches of `now_` are given out
  std::function<PassPlan()> prepare_;  // makes its plan; empty: nothing follows
  ShardRound round_;
  std::vector<std::int64_t> items_;  // of the batch that is given out
  std::uint64_t pass_id_ = 0;
  std::size_t next_ = 0;
  std::uint64_t requests_ = 0;
  std::uint64_t ready_at_requests_ = 0;
  std::uint64_t lost_ = 0;
};

}  // namespace lockstep::data::detail
