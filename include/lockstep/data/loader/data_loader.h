// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/batch_iterator.h>
#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/loader/detail/loader_types.h>
#include <lockstep/data/loader/detail/pass_plan.h>
#include <lockstep/data/loader/detail/sample_source.h>
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/loader/worker_error.h>
#include <lockstep/data/sampler.h>
#include <lockstep/data/samplers/detail/sampler_access.h>
#include <lockstep/data/samplers/distributed_sampler.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::data {

template <class Loader>
class DevicePrefetcher;

/// Batches of a dataset in the sampler's order, built by workers or in the calling thread; the same
/// bits either way.
///
///     for (auto& batch : loader) use(batch.data, batch.target);
///
/// Each `begin()` starts the current epoch over; an earlier loop may have stopped anywhere. So a
/// program that does not call `set_epoch` before each pass sees the same order and the same random
/// numbers of samples, pass after pass, also with `shuffle`. A shuffled loader warns of it, once.
///
/// When all batches of a pass are given out, the workers go on with those of the epoch that comes
/// next (`DataLoaderOptions::prepare_next_epoch`). Batches may be kept: the memory stays valid, and
/// is returned to the workers when the last tensor that shares it is gone. A program that keeps
/// many gets copies.
///
/// With worker processes, the dataset is copied into them (copy-on-write) when the loader is built:
/// later changes to it are not seen, and each worker reads a file that is open then at a position
/// of its own. Worker threads get a copy of the dataset each, where it can be copied. Build the
/// loader outside of parallel regions. Workers never outlive the program, however it ends. A worker
/// process that dies or hangs is replaced, and what it had claimed is done again.
///
/// `Dataset` is a `MapStyleDataset` or an `IterableDataset` (`data/dataset.h`), `Sampler` any of
/// the concepts in `data/sampler.h`. `Collate`, where given, makes a batch of a `std::vector` of
/// samples, in a worker; what it returns is the batch. Otherwise samples are stacked
/// (`data/collate.h`): a batch has the structure of a sample, with a dimension in front of each
/// tensor and a vector for each string.
///
/// Models `std::ranges::input_range`.
///
/// Shapes: data {n, ...sample}, target {n, ...sample}, n = `batch_size` except in a last batch.
/// Blocks: the calling thread, until the next batch is there. The destructor blocks for
/// milliseconds, at most 2 s (3 s for thread workers with `get_async`), and with `pin_memory` also
/// until no device reads a batch any more, at most 10 s.
/// Thread-safety: none; one thread uses a loader. Batches may be used and dropped in any thread.
/// Owns: the dataset, the sampler, the workers. The destructor ends the workers.
/// Throws: `c10::Error` for bad options, and when the loader has been moved from; `WorkerError` for
/// what goes wrong with samples and workers.
/// Source: the contract of `torch.utils.data.DataLoader` of PyTorch 2.11.
template <class Dataset, class Sampler = detail::DefaultSampler<Dataset>,
          class Collate = StackSamples>
class DataLoader {
  using Types = detail::LoaderTypes<Dataset, Sampler, Collate>;
  using Codec = typename Types::Codec;
  static constexpr bool kIsIterable = Types::kIsIterable;

 public:
  /// What `for` gives: a sample's structure with a dimension in front, or what `Collate` returns.
  using Batch = typename Codec::Type;
  /// An input iterator over the batches of a pass.
  using Iterator = detail::BatchIterator<Codec>;

  /// A loader of the samples that `sampler` gives.
  /// Blocks: until the workers are there, for milliseconds.
  /// Throws: `c10::Error` for bad options.
  DataLoader(Dataset dataset, Sampler sampler, const DataLoaderOptions& options = {},
             Collate collate = {})
      : dataset_(std::make_shared<Dataset>(std::move(dataset))),
        sampler_(std::move(sampler)),
        engine_(engine_of(dataset_, collate, facts(sampler_, true), options)) {}

  /// A loader of the whole dataset, in order or with `options.shuffle()`, or of `options.rank()`'s
  /// share of it; or of an iterable dataset.
  explicit DataLoader(
      Dataset dataset, const DataLoaderOptions& options = {},
      Collate collate = {}) requires std::is_same_v<Sampler, detail::DefaultSampler<Dataset>>
      : DataLoader(std::move(dataset), Whole{}, options, std::move(collate)) {}

  /// The next `begin()` starts this epoch. Call it before each pass, or all passes have the same
  /// order and random numbers.
  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch) {
    static_cast<void>(engine());
    if constexpr (kIsIterable) {
      TORCH_CHECK(epoch >= 0, "DataLoader: epoch is ", epoch, "; it must not be negative");
    } else {
      sampler_.set_epoch(epoch);
    }
    engine().progress().choose(epoch);
  }

  /// Batches in an epoch; after `load_state`, batches in what is left of the epoch.
  [[nodiscard]] std::size_t size() const requires(!kIsIterable) {
    static_cast<void>(engine());
    if constexpr (GivesBatches<Sampler>) {
      return static_cast<std::size_t>(sampler_.size());
    } else {
      return engine().batches(static_cast<std::size_t>(sampler_.size()));
    }
  }

  /// Starts a pass. Whoever looks at a batch waits until it is there, and gets the error if there
  /// was one.
  /// Throws: `c10::Error` when this has been moved from.
  [[nodiscard]] Iterator begin() {
    const auto pass = start_pass();
    return Iterator(&engine(), pass);
  }
  /// The end of every pass.
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return std::default_sentinel; }

  /// How far the program has come in the epoch. Batches that were prepared or copied ahead do not
  /// count; ranks that have received the same number of batches have the same state.
  /// Throws: `c10::Error` with `in_order(false)`, where there is no such place.
  [[nodiscard]] LoaderState state() const requires ResumableSampler<Sampler> {
    return engine().state(identity(), sampler_.epoch(),
                          sampler_.global_position(engine().received()));
  }

  /// Makes the next `begin()` go on at that place, with whatever number of workers and ranks; the
  /// epochs after it start at their beginning.
  /// Throws: `c10::Error` when the state is of another dataset or sampler.
  void load_state(const LoaderState& state) requires ResumableSampler<Sampler> {
    engine().check_state(state, identity());
    set_epoch(state.epoch);
    sampler_.start_at(state.position);
    engine().progress().resume();
  }

  /// What this loader has done since it was built.
  /// Throws: `c10::Error` when it has been moved from.
  [[nodiscard]] LoaderStatistics statistics() const { return engine().statistics(); }

  /// This process's copy of the dataset.
  [[nodiscard]] const Dataset& dataset() const {
    static_cast<void>(engine());
    return *dataset_;
  }
  /// This loader's own sampler.
  [[nodiscard]] const Sampler& sampler() const noexcept { return sampler_; }

 private:
  template <class Loader>
  friend class DevicePrefetcher;
  struct Whole {};

  DataLoader(Dataset dataset, Whole, const DataLoaderOptions& options, Collate collate)
      : dataset_(std::make_shared<Dataset>(std::move(dataset))),
        sampler_(whole(*dataset_, options)),
        engine_(engine_of(dataset_, collate, facts(sampler_, false), options)) {}

  static Sampler whole([[maybe_unused]] Dataset& dataset,
                       [[maybe_unused]] const DataLoaderOptions& options) {
    if constexpr (kIsIterable) {
      return {};
    } else if constexpr (Types::kIsValid) {
      return detail::sampler_of_whole(dataset.size(), options);
    } else {
      return Sampler(1, 1, 0);
    }
  }

  static detail::SamplerFacts facts([[maybe_unused]] const Sampler& sampler,
                                    [[maybe_unused]] bool is_given) {
    detail::SamplerFacts facts;
    if constexpr (!kIsIterable && Types::kIsValid) {
      facts.size = detail::epoch_size(sampler);
      facts.dataset_size = static_cast<std::size_t>(sampler.dataset_size());
      facts.largest_batch = detail::largest_batch(sampler);
      facts.is_given = is_given;
      facts.gives_batches = GivesBatches<Sampler>;
    }
    return facts;
  }

  static std::unique_ptr<detail::LoaderEngine> engine_of(const std::shared_ptr<Dataset>& dataset,
                                                         const Collate& collate,
                                                         const detail::SamplerFacts& facts,
                                                         const DataLoaderOptions& options) {
    if constexpr (Types::kIsValid) {
      return std::make_unique<detail::LoaderEngine>(detail::source_of(dataset, collate), facts,
                                                    options);
    } else {
      return nullptr;
    }
  }

  detail::LoaderEngine& engine() const {
    TORCH_CHECK(engine_ != nullptr,
                "DataLoader: this loader has been moved from; use the one that "
                "it was moved to");
    return *engine_;
  }

  // Nothing is forgotten before the pass has begun: where its plan cannot be made, the next begin()
  // tries the same.
  std::uint64_t start_pass() {
    auto& progress = engine().progress();
    if (repeats_an_epoch()) engine().warn_of_repetition(epoch());
    if constexpr (ResumableSampler<Sampler>) {
      if (progress.must_rewind()) sampler_.start_at(0);
    }
    if (progress.is_resumed() || !engine().start_prepared(epoch())) engine().start(plan());
    prepare(progress.begin(epoch()));
    return engine().pass_id();
  }

  bool repeats_an_epoch() const {
    if constexpr (requires { sampler_.is_shuffled(); }) {
      return engine().progress().repeats(epoch()) && sampler_.is_shuffled() &&
             engine().delivered() >= size();
    } else {
      return false;
    }
  }

  // Workers go on with epoch `next` when all batches of this pass are given out.
  void prepare([[maybe_unused]] std::int64_t next) {
    if constexpr (ResumableSampler<Sampler> && std::is_copy_constructible_v<Sampler>) {
      if (!engine().prepares_next_epoch() || next < 0) return;
      engine().prepare(next, [engine = &engine(), sampler = sampler_, next]() mutable {
        sampler.start_at(0);
        sampler.set_epoch(next);
        return detail::plan_of(sampler, next, *engine);
      });
    }
  }

  detail::SamplerIdentity identity() const requires ResumableSampler<Sampler> {
    return {static_cast<std::uint64_t>(sampler_.seed()),
            static_cast<std::uint64_t>(sampler_.dataset_size()),
            static_cast<std::uint64_t>(sampler_.fingerprint())};
  }

  detail::PassPlan plan() const {
    if constexpr (kIsIterable) {
      detail::PassPlan plan;
      plan.epoch = epoch();
      return plan;
    } else {
      return detail::plan_of(sampler_, epoch(), engine());
    }
  }

  std::int64_t epoch() const {
    if constexpr (requires { sampler_.epoch(); }) {
      return sampler_.epoch();
    } else {
      return engine().progress().chosen();
    }
  }

  std::shared_ptr<Dataset> dataset_;
  Sampler sampler_;
  std::unique_ptr<detail::LoaderEngine> engine_;
};

/// `DataLoader loader(dataset)` takes the whole dataset.
template <class Dataset>
DataLoader(Dataset) -> DataLoader<Dataset>;
/// The same with options.
template <class Dataset>
DataLoader(Dataset, DataLoaderOptions) -> DataLoader<Dataset>;
/// The same with options and a collate function.
template <class Dataset, class Collate>
DataLoader(Dataset, DataLoaderOptions, Collate)
    -> DataLoader<Dataset, detail::DefaultSampler<Dataset>, Collate>;

}  // namespace lockstep::data
