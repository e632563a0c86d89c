// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/worker_error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "concurrency/deadline.h"
#include "data/batch_source.h"
#include "data/batch_worker.h"
#include "workers/shared_memory_channel.h"
#include "workers/worker_pool.h"

namespace lockstep::data::detail {

/// Has worker processes build the batches, and hands their slots out as tensors, in order.
///
/// Each batch of a pass has a sequence number that is never used again, so results of an abandoned
/// pass cannot be mistaken for anything else. A slot is given to the oldest batch that has none, so
/// the batch that is waited for always owns one; when the program keeps so many that fewer than
/// workers + 1 would circulate, it gets a copy instead.
///
/// Owns: the workers, and the ring together with the batches that the program still holds.
class ProcessSource : public BatchSource {
 public:
  /// Throws: `std::system_error` when memory or processes cannot be had.
  ProcessSource(SampleSource source, std::size_t largest_batch, const DataLoaderOptions& options);
  ~ProcessSource() override;

  void start(BatchPlan plan) override;
  [[nodiscard]] std::size_t remaining() const override { return plan_.batches() - next_; }
  [[nodiscard]] Batch next() override;

 private:
  // What the rank remembers of a slot that it has given away.
  enum class Use { None, Live, Stale };

  [[nodiscard]] std::uint64_t sequence() const { return base_ + next_; }
  [[nodiscard]] std::optional<std::size_t> slot_of_next() const;
  void give_out_work();
  void take_back(std::size_t slot);
  [[nodiscard]] Batch deliver(std::size_t slot);
  [[nodiscard]] std::size_t circulating() const;

  // Each throws when there is something to report.
  void check_failed(std::size_t slot);
  void check_workers(std::optional<std::size_t> slot);
  void check_anyone_left(std::optional<std::size_t> slot);
  [[noreturn]] void throw_timeout(std::optional<std::size_t> slot, double seconds);

  void name_culprit(WorkerError::Context& context, std::optional<std::size_t> slot) const;
  [[nodiscard]] bool worker_has_ended(std::size_t worker) const;
  [[nodiscard]] WorkerError::Context end_of(std::size_t worker) const;
  void describe_work(WorkerError::Context& context, std::size_t slot) const;
  void move_layout_turn();

  SampleSource source_;
  std::size_t largest_batch_;
  std::size_t workers_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<workers::SharedMemoryChannel> channel_;  // shared with the batches handed out
  std::vector<Use> uses_;                                  // by slot
  std::vector<bool> reported_;                             // by worker: its end has been thrown
  std::optional<BatchLayout> layout_;
  BatchPlan plan_;
  std::uint64_t base_ = 0;    // sequence of this pass's batch 0
  std::size_t next_ = 0;      // batch that `next` returns
  std::size_t assigned_ = 0;  // batches of this pass that got a slot
  bool has_warned_ = false;
  bool nursery_is_dead_ = false;
  std::unique_ptr<workers::WorkerPool> pool_;  // last: it runs on all of the above
};

}  // namespace lockstep::data::detail
