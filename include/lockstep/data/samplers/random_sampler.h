// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::data {

/// What a `RandomSampler` is told. The same on all ranks.
struct LOCKSTEP_API RandomSamplerOptions {
  /// Whether each draw is from all samples, as if none had been drawn before. A sample that comes
  /// several times in an epoch has the same `SampleRandom` each time.
  TORCH_ARG(bool, replacement) = false;
  /// Draws of an epoch, over all ranks; 0 = as many as the dataset has samples. More than that
  /// without replacement goes through the dataset again, in another order.
  TORCH_ARG(std::uint64_t, num_samples) = 0;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to samples that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Draws samples at random, each as likely as the others. Every position can be asked for by
/// itself, at any size, without memory.
///
/// Thread-safety: as `EpochSampler`.
/// Source: the contract of `torch.utils.data.RandomSampler` of PyTorch 2.11; the orders are
/// those of `ShuffleOrder::Keyed` and of `SampleRandom`.
class LOCKSTEP_API RandomSampler final : public EpochSampler {
 public:
  /// The share of rank `rank` of `world_size`.
  /// Throws: `c10::Error` as `EpochSampler`.
  explicit RandomSampler(std::size_t dataset_size, int world_size = 1, int rank = 0,
                         const RandomSamplerOptions& options = {});

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
  void fill(std::span<std::int64_t> indices, std::uint64_t position,
            std::uint64_t step) const override;
  void epoch_changed() override;

  bool replacement_;
  detail::KeyedPermutation first_;  // of the first time through the dataset
};

}  // namespace lockstep::data
