// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Stream.h>
#include <lockstep/core/export.h>
#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/epoch_progress.h>
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samples/sample_tree.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// What `DataLoader` delegates to; programs do not use it.
namespace lockstep::data::detail {

/// A shard of an iterable dataset whose type is erased.
class SampleStream {
 public:
  virtual ~SampleStream() = default;
  virtual void reset(std::size_t shard, std::size_t shards, std::int64_t epoch) = 0;
  [[nodiscard]] virtual std::optional<SampleTree> next() = 0;
};

/// A dataset whose type is erased.
struct SampleSource {
  std::function<SampleTree(std::size_t index, SampleRandom& random)> get;
  /// Empty where the dataset has none.
  std::function<void(std::size_t index, std::span<std::byte> data, std::span<std::byte> target,
                     SampleRandom& random)>
      get_into;
  /// Makes a batch of samples; where it is empty, samples are stacked.
  std::function<SampleTree(std::vector<SampleTree> samples)> collate;
  /// Each sample can be written into its row of the batch alone.
  bool has_rows = false;
  /// The number of samples; nothing where the dataset does not know.
  std::optional<std::size_t> size;
  /// Says where a sample comes from, for messages. Empty where the dataset cannot say.
  std::function<std::string(std::size_t index)> describe;
  /// Opens a shard. Iterable datasets have this instead of all of the above but `collate`.
  std::function<std::unique_ptr<SampleStream>()> open;
  /// A source over a copy of the dataset; empty where it cannot be copied.
  std::function<SampleSource()> copy;
};

/// What a loader needs to know about its sampler before the first epoch.
struct SamplerFacts {
  std::size_t size = 0;           ///< indices in an epoch
  std::size_t dataset_size = 0;   ///< every index is below this; 0 = not known
  std::size_t largest_batch = 0;  ///< where the sampler gives batches; 0: batches have `batch_size`
  bool is_given = false;          ///< the program has given the sampler
  bool gives_batches = false;
};

/// What a resumable sampler says of the order that it gives.
struct SamplerIdentity {
  std::uint64_t seed = 0;
  std::uint64_t dataset_size = 0;
  std::uint64_t fingerprint = 0;
};

/// The whole dataset, or the rank's share of it, for a loader that is given no sampler.
/// Throws: `c10::Error` when the dataset is empty or does not know its size.
[[nodiscard]] LOCKSTEP_API DistributedSampler sampler_of_whole(std::optional<std::size_t> size,
                                                               const DataLoaderOptions& options);

/// The batches of one pass. What `items` uses is the plan's own: the sampler may go on to another
/// epoch meanwhile.
struct PassPlan {
  std::int64_t epoch = 0;
  std::size_t batches = 0;
  /// Dataset indices of a batch, into an empty vector. Called for 0, 1, 2, ... when a batch is
  /// given out; where samples may be replaced, also for some that follow. Empty for iterable
  /// datasets, whose batches are as many as come.
  std::function<void(std::size_t batch, std::vector<std::int64_t>& items)> items;
};

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
  [[nodiscard]] std::uint64_t pass() const noexcept { return pass_; }
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
  /// `passed` know nothing until it is said again, or until the next pass.
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
  [[nodiscard]] std::size_t passed() const;
  /// `consumed`, or `passed` where the sampler gives batches: what the sampler's positions count. 0
  /// where the last pass was of another epoch.
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
  std::uint64_t pass_ = 0;
  std::int64_t prepared_epoch_ = -1;
  bool has_warned_of_repetition_ = false;
  std::optional<std::size_t> received_;  // batches, where fewer than were taken
  std::optional<c10::Stream> copy_stream_;
  std::unique_ptr<BatchSource> source_;
};

}  // namespace lockstep::data::detail
