// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace lockstep::data {

/// What a `SubsetSampler` is told. The same on all ranks.
struct LOCKSTEP_API SubsetSamplerOptions {
  /// Whether each epoch has an order of its own; otherwise the order given.
  TORCH_ARG(bool, shuffle) = true;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to samples that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Gives chosen samples of a dataset: a fold, a split, what passed a filter. An index that is given
/// twice is drawn twice.
///
/// Thread-safety: as `EpochSampler`. Copies share the indices.
/// Source: the contract of `torch.utils.data.SubsetRandomSampler` of PyTorch 2.11.
class LOCKSTEP_API SubsetSampler final : public EpochSampler {
 public:
  /// The share of rank `rank` of `world_size` in these samples.
  /// Throws: `c10::Error` as `EpochSampler`, and naming an index that is not in [0, dataset_size).
  SubsetSampler(std::vector<std::int64_t> indices, std::size_t dataset_size, int world_size = 1,
                int rank = 0, const SubsetSamplerOptions& options = {});

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
  void fill(std::span<std::int64_t> indices, std::uint64_t position,
            std::uint64_t step) const override;
  void epoch_changed() override;

  std::shared_ptr<const std::vector<std::int64_t>> indices_;
  bool shuffle_;
  detail::KeyedPermutation order_;
};

}  // namespace lockstep::data
