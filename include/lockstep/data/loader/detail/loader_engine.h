// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Stream.h>
#include <lockstep/core/export.h>
#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/epoch_progress.h>
#include <lockstep/data/loader/detail/loader_input.h>
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/samples/sample_tree.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

/// What `DataLoader` delegates to; programs do not use it.
namespace lockstep::data::detail {

class BatchSource;

/// Has the batches of passes built, here or by workers.
///
/// Thread-safety: none.
class LOCKSTEP_API LoaderEngine {
 public:
  /// Throws: `c10::Error` naming an option that is out of range, an empty dataset, or what could
  /// not be had.
  LoaderEngine(SampleSource source, const SamplerFacts& sampler, const DataLoaderOptions& options);
  ~LoaderEngine();
  LoaderEngine(const LoaderEngine&) = delete;
  LoaderEngine& operator=(const LoaderEngine&) = delete;

  /// Appends `count` indices of the epoch's order, from position `first` on.
  using AppendIndices =
      std::function<void(std::size_t first, std::size_t count, std::vector<std::int64_t>& items)>;

  /// A plan that cuts `samples` indices into batches.
  [[nodiscard]] PassPlan cut(std::int64_t epoch, std::size_t samples, AppendIndices append) const;

  /// Starts over with this plan.
  void start(PassPlan plan);
  /// Lets the workers go on with a pass over `epoch` when all batches of this pass are given out;
  /// `plan` is called then.
  void prepare(std::int64_t epoch, std::function<PassPlan()> plan);
  /// Starts the pass that has been prepared, if it is of this epoch; else nothing happens.
  [[nodiscard]] bool start_prepared(std::int64_t epoch);
  /// Warns, once, that the program begins this epoch again after a whole pass over it.
  void warn_of_repetition(std::int64_t epoch);
  /// Which epoch the loader is at.
  [[nodiscard]] EpochProgress& progress() noexcept { return progress_; }
  /// Whether workers may go on with the next epoch (`DataLoaderOptions::prepare_next_epoch`).
  [[nodiscard]] bool prepares_next_epoch() const noexcept { return prepares_next_epoch_; }
  /// Number of the pass that was started last.
  [[nodiscard]] std::uint64_t pass_id() const noexcept { return pass_id_; }
  /// Whether this pass has batches that `next` has neither delivered nor reported as lost.
  /// Blocks: as `next`, for an iterable dataset.
  [[nodiscard]] bool has_next();
  /// Blocks: the calling thread, for at most the loader's timeout after a sign of progress.
  /// Throws: `WorkerError`.
  [[nodiscard]] SampleTree next();
  /// Whether `next` would come back at once. Never for batches that are built in this thread.
  /// Blocks: not at all.
  [[nodiscard]] bool is_ready();
  /// What has been taken by now is with the program; of what is taken after that, `consumed` and
  /// `delivered` know nothing until it is said again, or until the next pass.
  void mark_received();
  /// The stream for copies to `device`: one for the loader's life, since LibTorch keeps memory for
  /// each.
  [[nodiscard]] c10::Stream copy_stream(c10::Device device);
  /// Batches in `samples` samples.
  [[nodiscard]] std::size_t batches(std::size_t samples) const noexcept;
  /// Samples of this pass in the batches that were delivered or lost so far, to the program's
  /// knowledge, as if all were full: the last ones of two ranks may differ, and both ranks are at
  /// the same place after them.
  [[nodiscard]] std::size_t consumed() const;
  /// How many batches those are.
  [[nodiscard]] std::size_t delivered() const;
  /// `consumed`, or `delivered` where the sampler gives batches: what the sampler's positions
  /// count. 0 where the last pass was of another epoch.
  [[nodiscard]] std::size_t received() const;
  /// Throws: `c10::Error` with `in_order(false)`, where there is no such place.
  [[nodiscard]] LoaderState state(const SamplerIdentity& sampler, std::int64_t epoch,
                                  std::uint64_t position) const;
  /// Throws: `c10::Error` when the state is of another dataset or sampler.
  void check_state(const LoaderState& state, const SamplerIdentity& sampler) const;
  [[nodiscard]] LoaderStatistics statistics() const;
  /// What decides the samples of an epoch: their order, which `order` stands for, and the seed by
  /// which they draw.
  [[nodiscard]] std::uint64_t fingerprint(std::uint64_t order) const noexcept;

 private:
  [[nodiscard]] PassPlan checked(PassPlan plan) const;

  std::size_t batch_size_;
  std::uint64_t seed_;
  bool drop_last_;
  bool in_order_;
  bool prepares_next_epoch_;
  SamplerFacts sampler_;
  EpochProgress progress_;
  std::uint64_t pass_id_ = 0;
  std::int64_t prepared_epoch_ = -1;
  bool has_warned_of_repetition_ = false;
  std::optional<std::size_t> received_;  // batches, where fewer than were taken
  std::optional<c10::Stream> copy_stream_;
  std::unique_ptr<BatchSource> source_;
};

}  // namespace lockstep::data::detail
