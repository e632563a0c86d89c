// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/data_loader_options.h>
#include <lockstep/data/detail/loader_engine.h>
#include <lockstep/data/distributed_sampler.h>
#include <lockstep/data/worker_error.h>
#include <torch/data/example.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::data {

/// Any of LibTorch's map-style datasets, or a class of your own with these two members. `get` must
/// depend on the index alone: what it draws at random it must seed from the index, or the batches
/// depend on the number of workers.
template <class T>
concept MapStyleDataset = requires(T& dataset, std::size_t index) {
  { dataset.get(index) } -> std::convertible_to<torch::data::Example<>>;
  { dataset.size() } -> std::convertible_to<std::optional<std::size_t>>;
};

/// A dataset that can also write a sample where it belongs in the batch, without a tensor of its
/// own. All its samples have the shapes and dtypes of the first.
template <class T>
concept WritesInPlace = requires(T& dataset, std::size_t index, std::span<std::byte> bytes) {
  dataset.get_into(index, bytes, bytes);
};

template <class T>
concept IndexSampler = requires(T& sampler, const T& view, std::int64_t epoch) {
  { view.indices() } -> std::convertible_to<std::vector<std::int64_t>>;
  { view.size() } -> std::convertible_to<std::size_t>;
  { view.dataset_size() } -> std::convertible_to<std::size_t>;
  sampler.set_epoch(epoch);
};

/// Batches of a dataset in the sampler's order, built by worker processes or in the calling thread;
/// the same bits either way.
///
///     for (auto& batch : loader) use(batch.data, batch.target);
///
/// Each `begin()` starts the current epoch over; an earlier loop may have stopped anywhere. Batches
/// may be kept: the memory stays valid, and is returned to the workers when the last tensor that
/// shares it is gone. A program that keeps many gets copies.
///
/// With workers, the dataset is copied into them (copy-on-write) when the loader is built: later
/// changes to it are not seen, and ordinary files that it holds open share their position. Build
/// the loader outside of parallel regions. Workers never outlive the program, however it ends.
///
/// Shapes: data {n, ...sample}, target {n, ...sample}, n = `batch_size` except in a last batch.
/// Blocks: the calling thread, until the next batch is there; `WorkerError` when it makes no
/// progress for `timeout`. Thread-safety: none; one thread uses a loader. Batches may be used and
/// dropped in any thread. Owns: the dataset, the sampler, the workers. The destructor ends the
/// workers (Blocks: milliseconds, at most 2 s). Throws: `c10::Error` for bad options; `WorkerError`
/// for what goes wrong with samples and workers. A worker that died is not replaced yet: the others
/// go on without it. Source: the contract of `torch.utils.data.DataLoader` of PyTorch 2.11 for
/// map-style datasets.
template <MapStyleDataset Dataset, IndexSampler Sampler = DistributedSampler>
class DataLoader {
 public:
  using Batch = detail::Batch;
  using Iterator = detail::BatchIterator;

  DataLoader(Dataset dataset, Sampler sampler, const DataLoaderOptions& options = {})
      : dataset_(std::make_shared<Dataset>(std::move(dataset))),
        sampler_(std::move(sampler)),
        engine_(std::make_unique<detail::LoaderEngine>(
            source(dataset_),
            detail::SamplerFacts{static_cast<std::size_t>(sampler_.size()),
                                 static_cast<std::size_t>(sampler_.dataset_size())},
            options)) {}

  /// From the next `begin()` on.
  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch) { sampler_.set_epoch(epoch); }

  /// Batches in an epoch.
  [[nodiscard]] std::size_t size() const { return engine_->batches(sampler_.size()); }

  [[nodiscard]] Iterator begin() {
    const auto pass = engine_->start(sampler_.indices());
    return Iterator(engine_.get(), pass);
  }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return std::default_sentinel; }

  /// This process's copy.
  [[nodiscard]] const Dataset& dataset() const noexcept { return *dataset_; }
  [[nodiscard]] const Sampler& sampler() const noexcept { return sampler_; }

 private:
  static detail::SampleSource source(const std::shared_ptr<Dataset>& dataset) {
    detail::SampleSource result;
    result.get = [dataset](std::size_t index) -> torch::data::Example<> {
      return dataset->get(index);
    };
    if constexpr (WritesInPlace<Dataset>) {
      result.get_into = [dataset](std::size_t index, std::span<std::byte> data,
                                  std::span<std::byte> target) {
        dataset->get_into(index, data, target);
      };
    }
    result.size = std::optional<std::size_t>(dataset->size());
    return result;
  }

  std::shared_ptr<Dataset> dataset_;
  Sampler sampler_;
  std::unique_ptr<detail::LoaderEngine> engine_;
};

}  // namespace lockstep::data
