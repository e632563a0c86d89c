// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/data_loader_options.h>
#include <torch/data/example.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <vector>

/// What `DataLoader` delegates to; programs do not use it.
namespace lockstep::data::detail {

using Batch = torch::data::Example<>;

/// A dataset with its type forgotten.
struct SampleSource {
  std::function<torch::data::Example<>(std::size_t index)> get;
  /// Empty where the dataset has none.
  std::function<void(std::size_t index, std::span<std::byte> data, std::span<std::byte> target)>
      get_into;
  /// Nothing where the dataset does not know.
  std::optional<std::size_t> size;
};

/// What a loader needs to know about its sampler before the first epoch.
struct SamplerFacts {
  std::size_t size = 0;          ///< indices in an epoch
  std::size_t dataset_size = 0;  ///< every index is below this; 0 = not known
};

class BatchSource;

/// Cuts an epoch's indices into batches and has them built, here or by workers.
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

  /// Starts over with these indices. Returns the number of this pass.
  std::uint64_t start(std::vector<std::int64_t> indices);
  [[nodiscard]] std::uint64_t pass() const noexcept { return pass_; }
  /// Batches of this pass that `next` has not delivered, nor reported as lost.
  [[nodiscard]] std::size_t remaining() const;
  /// Blocks: the calling thread, for at most the loader's timeout after a sign of progress.
  /// Throws: `WorkerError`.
  [[nodiscard]] Batch next();
  /// Batches in `samples` samples.
  [[nodiscard]] std::size_t batches(std::size_t samples) const noexcept;

 private:
  std::size_t batch_size_;
  bool drop_last_;
  std::size_t samples_limit_;
  std::uint64_t pass_ = 0;
  std::unique_ptr<BatchSource> source_;
};

/// Walks over the batches of one pass. A batch is fetched when it is looked at, and given back by
/// `++`.
class LOCKSTEP_API BatchIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;
  using pointer = Batch*;
  using reference = Batch&;

  BatchIterator(LoaderEngine* engine, std::uint64_t pass) : engine_(engine), pass_(pass) {}

  /// Throws: `WorkerError` when this batch could not be had; looking again, or after `++`, gives
  /// the next one.
  Batch& operator*();
  Batch* operator->() { return &**this; }
  BatchIterator& operator++();
  void operator++(int) { ++*this; }

  [[nodiscard]] bool operator==(std::default_sentinel_t) const { return is_at_end(); }

 private:
  [[nodiscard]] bool is_at_end() const;
  void check_pass() const;

  LoaderEngine* engine_;
  std::uint64_t pass_;
  std::optional<Batch> current_;
  bool has_failed_ = false;  // the batch of this position is lost
};

}  // namespace lockstep::data::detail
