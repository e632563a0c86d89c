// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samples/sample_tree.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// What a loader is made of, without the types of the program: its dataset, its sampler, and the
/// batches of a pass. Programs do not use it.
namespace lockstep::data::detail {

/// A shard of an iterable dataset whose type is erased.
class SampleStream {
 public:
  virtual ~SampleStream() = default;
  virtual void reset(std::size_t shard, std::size_t shards, std::int64_t epoch) = 0;
  [[nodiscard]] virtual std::optional<SampleTree> next() = 0;
};

/// A sample that a dataset's `get_async` has begun. It keeps the dataset alive.
class PendingSample {
 public:
  virtual ~PendingSample() = default;
  /// Whether it is there. Blocks: at most `limit`.
  [[nodiscard]] virtual bool wait_for(std::chrono::milliseconds limit) = 0;
  /// Once, when it is there. Throws: what the dataset has to say.
  [[nodiscard]] virtual SampleTree take(SampleRandom& random) = 0;
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
  /// Names the files of a sample. Empty where the dataset cannot say.
  std::function<void(std::size_t index, FileParts& parts)> files;
  /// Begins to fetch a sample. Empty where the dataset has no `get_async`.
  std::function<std::unique_ptr<PendingSample>(std::size_t index)> start;
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

}  // namespace lockstep::data::detail
