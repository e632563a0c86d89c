// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/data/samplers/epoch_sampler.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lockstep::data {

/// Cuts a sampler's indices into batches.
///
/// Thread-safety: as its sampler.
/// Source: the contract of `torch.utils.data.BatchSampler` of PyTorch 2.11.
template <std::derived_from<EpochSampler> Sampler>
class BatchSampler {
 public:
  /// `drop_last` leaves out a last batch that is not full.
  /// Throws: `c10::Error` when `batch_size` is 0.
  BatchSampler(Sampler sampler, std::size_t batch_size, bool drop_last = false)
      : sampler_(std::move(sampler)), batch_size_(batch_size), drop_last_(drop_last) {
    TORCH_CHECK(batch_size > 0, "BatchSampler: batch_size is 0; it must be at least 1");
  }

  /// Batches of this rank from `start_at` on.
  [[nodiscard]] std::size_t size() const noexcept {
    const auto samples = sampler_.size();
    return samples / batch_size_ + (!drop_last_ && samples % batch_size_ != 0 ? 1 : 0);
  }
  /// No batch of any epoch has more.
  [[nodiscard]] std::size_t largest_batch() const noexcept {
    return std::min(batch_size_, sampler_.epoch_size());
  }

  /// Indices of this rank's batch `number`.
  /// Throws: `c10::Error` when `number` is not below `size()`.
  [[nodiscard]] std::vector<std::int64_t> batch(std::size_t number) const {
    TORCH_CHECK(number < size(), "BatchSampler: batch ", number, " is not below the size ", size());
    const auto first = number * batch_size_;
    std::vector<std::int64_t> indices(std::min(batch_size_, sampler_.size() - first));
    for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = sampler_.index(first + i);
    return indices;
  }
  /// All `size()` of them.
  [[nodiscard]] std::vector<std::vector<std::int64_t>> batches() const {
    std::vector<std::vector<std::int64_t>> all(size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = batch(i);
    return all;
  }

  /// Does what `EpochSampler::set_epoch` does.
  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch) { sampler_.set_epoch(epoch); }
  /// The sampler's epoch.
  [[nodiscard]] std::int64_t epoch() const noexcept { return sampler_.epoch(); }
  /// Does what `EpochSampler::start_at` does: positions count samples, not batches.
  /// Throws: `c10::Error` when it lies behind the order's end.
  void start_at(std::uint64_t global_position) { sampler_.start_at(global_position); }
  /// `EpochSampler::global_position` when each rank has consumed this many batches.
  [[nodiscard]] std::uint64_t global_position(std::size_t local_batches) const noexcept {
    // Beyond any rank's end, and far from where a product would overflow.
    const auto most = (sampler_.size() + 1) / batch_size_ + 1;
    return sampler_.global_position(local_batches < most ? local_batches * batch_size_
                                                         : sampler_.size() + 1);
  }
  /// Every index is below it.
  [[nodiscard]] std::size_t dataset_size() const noexcept { return sampler_.dataset_size(); }
  /// Together with the epoch it decides the order.
  [[nodiscard]] std::uint64_t seed() const noexcept { return sampler_.seed(); }
  /// Whether each epoch has an order of its own.
  [[nodiscard]] bool is_shuffled() const noexcept { return sampler_.is_shuffled(); }
  /// The sampler's fingerprint; the size of the batches is not in it.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept { return sampler_.fingerprint(); }
  /// The sampler that gives the indices.
  [[nodiscard]] const Sampler& sampler() const noexcept { return sampler_; }

 private:
  Sampler sampler_;
  std::size_t batch_size_;
  bool drop_last_;
};

}  // namespace lockstep::data
