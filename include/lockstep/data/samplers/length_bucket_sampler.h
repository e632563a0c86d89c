// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lockstep::data {

namespace detail {
class BucketPlan;
}

/// What a `LengthBucketSampler` is told. The same on all ranks.
struct LOCKSTEP_API LengthBucketSamplerOptions {
  /// Most samples in a batch; at least 1.
  TORCH_ARG(std::size_t, batch_size) = 0;
  /// Most elements in a batch once all its samples are padded to the longest; 0 = no limit.
  TORCH_ARG(std::int64_t, max_elements) = 0;
  /// The samples of this many full batches are sorted by length together; at least 1. More of them
  /// save padding, fewer leave batches more random.
  TORCH_ARG(std::size_t, pool_batches) = 100;
  /// Whether each epoch has pools and an order of batches of its own.
  TORCH_ARG(bool, shuffle) = true;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to batches, not samples, that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Makes batches of samples of similar length, for data that is padded to the longest of a batch.
///
/// An epoch's batches are the same for every world; rank r of W takes batches r, r + W, ... They
/// are worked out once an epoch, by the first who asks (16 bytes a sample). Their number can differ
/// from epoch to epoch where `max_elements` is set.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API LengthBucketSampler {
 public:
  /// `lengths`: elements of each sample of the dataset.
  /// Throws: `c10::Error` as `EpochSampler`, for options out of range, and naming a length that is
  /// negative or above `max_elements`.
  LengthBucketSampler(std::vector<std::int64_t> lengths, int world_size, int rank,
                      const LengthBucketSamplerOptions& options);

  /// Does what `EpochSampler::set_epoch` does.
  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch);
  /// The epoch whose batches `batch` gives.
  [[nodiscard]] std::int64_t epoch() const noexcept { return epoch_; }

  /// Batches of this rank from `start_at` on.
  [[nodiscard]] std::size_t size() const;
  /// No batch of any epoch has more.
  [[nodiscard]] std::size_t largest_batch() const noexcept { return options_.batch_size(); }
  /// Every index is below it.
  [[nodiscard]] std::size_t dataset_size() const noexcept { return lengths_->size(); }
  /// Indices of this rank's batch `number`.
  /// Throws: `c10::Error` when `number` is not below `size()`.
  [[nodiscard]] std::vector<std::int64_t> batch(std::size_t number) const;
  /// All `size()` of them.
  [[nodiscard]] std::vector<std::vector<std::int64_t>> batches() const;

  /// Does what `EpochSampler::start_at` does, but positions count batches of the epoch, over all
  /// ranks.
  /// Throws: `c10::Error` when it lies behind the epoch's end.
  void start_at(std::uint64_t global_position);
  /// What `EpochSampler::global_position` is, in batches.
  [[nodiscard]] std::uint64_t global_position(std::size_t local_batches) const;
  /// Together with the epoch it decides the order.
  [[nodiscard]] std::uint64_t seed() const noexcept { return options_.seed(); }
  /// Whether each epoch has an order of its own.
  [[nodiscard]] bool is_shuffled() const noexcept { return options_.shuffle(); }
  /// What `EpochSampler::fingerprint` is; lengths and the sizes of batches are in it.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept { return fingerprint_; }

 private:
  void make_plan();

  std::shared_ptr<const std::vector<std::int64_t>> lengths_;
  detail::RankShare share_;
  LengthBucketSamplerOptions options_;
  std::int64_t epoch_ = 0;
  std::uint64_t fingerprint_ = 0;
  std::shared_ptr<const detail::BucketPlan> plan_;
};

}  // namespace lockstep::data
