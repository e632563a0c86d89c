// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace lockstep::data {

namespace detail {
class LazyOrder;
}

/// How the order of an epoch is made.
enum class ShuffleOrder {
  PyTorch,  ///< Python's order, index for index; takes 8 bytes a sample, made once an epoch
  Keyed,    ///< a formula gives each index: no memory and no time, at any size (ADR 0021)
};

/// What a `DistributedSampler` is told. The same on all ranks.
struct LOCKSTEP_API DistributedSamplerOptions {
  /// Whether each epoch has an order of its own; otherwise 0, 1, 2, ...
  TORCH_ARG(bool, shuffle) = true;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to samples that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
  /// How the order is made, with `shuffle`.
  TORCH_ARG(ShuffleOrder, order) = ShuffleOrder::PyTorch;
};

/// Gives one rank every `world_size`-th sample of the epoch's order, from `rank` on.
///
/// The order depends on the seed and the epoch only, so ranks need not talk to each other.
///
/// Thread-safety: as `EpochSampler`.
/// Source: `torch.utils.data.DistributedSampler` of PyTorch 2.11, index for index (`Pad` is its
/// `drop_last=False`, `Drop` its `drop_last=True`; `Exact` and `Keyed` have no counterpart there).
class LOCKSTEP_API DistributedSampler final : public EpochSampler {
 public:
  /// The share of rank `rank` of `world_size`.
  /// Throws: `c10::Error` when the dataset is empty, the world has no ranks, or `rank` lies outside
  /// of it.
  DistributedSampler(std::size_t dataset_size, int world_size, int rank,
                     DistributedSamplerOptions options = {});

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
  void fill(std::span<std::int64_t> indices, std::uint64_t position,
            std::uint64_t step) const override;
  void epoch_changed() override;

  DistributedSamplerOptions options_;
  std::shared_ptr<const detail::LazyOrder> pytorch_;  // what decides the order: one of these two,
  std::optional<detail::KeyedPermutation> keyed_;     // or neither without shuffle
};

}  // namespace lockstep::data
