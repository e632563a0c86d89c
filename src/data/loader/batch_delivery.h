// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/samples/sample_tree.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader/deferred_release.h"
#include "data/loader/sample_policy.h"
#include "data/loader/worker_job.h"
#include "data/samples/sample_layout.h"
#include "native/cuda/host_pinning.h"

namespace lockstep::data::detail {

/// Hands a slot that is full to the program, as tensors that lie in it. When the program keeps so
/// many batches that fewer than workers + 1 slots would circulate, it gets a copy instead.
///
/// Runs in the rank, in the thread that uses the loader. Thread-safety: none.
/// Owns: the layout of samples as the rank knows it, the pinning of the slots, and what is counted
/// of the batches; the slots' memory together with the batches that the program still holds.
class BatchDelivery {
 public:
  BatchDelivery(std::shared_ptr<const WorkerJob> job, const DataLoaderOptions& options);

  /// From the next batch on, all tensors lie in pinned memory. Before the first one.
  void pin_batches(std::shared_ptr<native::HostPinning> pinning);
  /// The program's time in a pass counts from here.
  void begin_pass();
  /// Gives back the slots that devices have finished with.
  void release_finished() noexcept;

  /// Whether samples may be left out of batches.
  [[nodiscard]] bool may_leave_out() const noexcept { return may_leave_out_; }
  /// Whether there is anything in this slot, which is ready, for the program: not at the end of a
  /// shard, nor where all samples were left out.
  [[nodiscard]] bool has_samples(std::size_t slot) const;
  /// Counts what is missing in a batch that is skipped, and warns of it.
  /// Throws: what the warning throws; then nothing is counted.
  void count_skipped(std::size_t slot);

  /// The batch with number `batch` of its pass, which is ready in this slot; `held` slots are with
  /// the program. The slot is given back when the last tensor in it is gone, or at once when this
  /// throws.
  /// Throws: `WorkerError` when the batch cannot be delivered: there is no memory for it or for its
  /// copy, the slots cannot be pinned, or a warning throws. It is counted as lost, and as nothing
  /// else.
  [[nodiscard]] SampleTree deliver(std::size_t slot, std::size_t batch, std::size_t held);

  [[nodiscard]] const LoaderStatistics& statistics() const noexcept { return statistics_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Count {
    std::size_t samples = 0;
    std::size_t skipped = 0;
    std::size_t replaced = 0;
  };
  struct Opened {
    SampleTree batch;
    bool is_copy = false;  // nothing of it lies in the slot
  };

  void pin_slots();
  void give_up(std::size_t slot);
  [[nodiscard]] SampleTree take(std::size_t slot, std::size_t held);
  [[nodiscard]] Opened open_rows(std::size_t slot, bool keep_a_copy);
  [[nodiscard]] Opened open_whole(std::size_t slot, bool keep_a_copy);
  [[nodiscard]] SampleTree copy(const SampleTree& batch, std::size_t held);
  [[nodiscard]] Count count_samples(std::size_t slot) const;
  void count_missing(const Count& count);
  void count_batch(const Count& count);
  void warn_of_missing(std::size_t slot, const Count& count);
  [[nodiscard]] std::vector<std::int64_t> rows_of(std::size_t slot) const;
  [[nodiscard]] std::byte* payload() const;
  [[nodiscard]] std::byte* slot_memory(std::size_t slot) const;

  std::shared_ptr<const WorkerJob> job_;
  workers::TaskChannel& channel_;  // the job's
  bool may_leave_out_;
  std::shared_ptr<native::HostPinning> pinning_;  // none: batches are not pinned
  std::shared_ptr<DeferredRelease> deferred_;     // once the slots are pinned
  std::optional<SampleLayout> layout_;
  MissingSampleWarning missing_;
  bool has_warned_of_copies_ = false;
  Clock::time_point last_taken_;
  LoaderStatistics statistics_;
};

}  // namespace lockstep::data::detail
