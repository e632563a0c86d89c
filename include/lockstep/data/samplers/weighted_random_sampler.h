// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace lockstep::data {

namespace detail {
class AliasTable;
class LazyOrder;
}  // namespace detail

/// What a `WeightedRandomSampler` is told. The same on all ranks.
struct LOCKSTEP_API WeightedRandomSamplerOptions {
  /// Draws of an epoch, over all ranks; 0 = as many as there are weights, or, without replacement,
  /// weights above 0.
  TORCH_ARG(std::uint64_t, num_samples) = 0;
  /// Whether a sample may be drawn several times in an epoch, with the same `SampleRandom` each
  /// time.
  TORCH_ARG(bool, replacement) = true;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to samples that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Draws samples at random, each as likely as its weight says; weights need not add up to 1. A
/// sample of weight 0 is never drawn.
///
/// With replacement a draw takes constant time and depends on its position alone. Without, the
/// epoch's order is worked out once, when it is first asked for: each draw is from what is left.
///
/// Thread-safety: as `EpochSampler`.
/// Source: the contract of `torch.utils.data.WeightedRandomSampler` of PyTorch 2.11. With
/// replacement: Vose, "A linear algorithm for generating random numbers with a given distribution"
/// (1991). Without: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
class LOCKSTEP_API WeightedRandomSampler final : public EpochSampler {
 public:
  /// The dataset has as many samples as there are weights.
  /// Throws: `c10::Error` as `EpochSampler`; naming a weight that is negative or not finite; when
  /// all are 0; and when more draws without replacement are wanted than weights are above 0.
  explicit WeightedRandomSampler(std::vector<double> weights, int world_size = 1, int rank = 0,
                                 const WeightedRandomSamplerOptions& options = {});

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
  void epoch_changed() override;

  std::shared_ptr<const std::vector<double>> weights_;
  std::shared_ptr<const detail::AliasTable> table_;  // with replacement
  std::shared_ptr<const detail::LazyOrder> order_;   // without
};

}  // namespace lockstep::data
