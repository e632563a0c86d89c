// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/epoch_sampler.h>
#include <lockstep/data/keyed_permutation.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lockstep::data {

namespace detail {
struct Strata;
}

/// How often a class comes.
enum class ClassBalance {
  Proportional,  ///< as in the dataset; each sample comes once an epoch
  Balanced,      ///< all alike; samples of rare classes come more often, of frequent ones less
};

struct LOCKSTEP_API StratifiedSamplerOptions {
  /// Samples of the epoch's order that make up one window; at least 1. A good choice is the batch
  /// size times the world size, so that a window is what all ranks use in one step.
  TORCH_ARG(std::uint64_t, window) = 0;
  TORCH_ARG(ClassBalance, balance) = ClassBalance::Proportional;
  /// Draws of an epoch over all ranks, with `Balanced`; 0 = as many as there are labels.
  TORCH_ARG(std::uint64_t, num_samples) = 0;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Samples such that each class has its due part of every window, not only of the epoch: among the
/// first k windows together, each class has what it is due to within less than one sample, and
/// exactly that where it is a whole number. Within a window the order is random, and which samples
/// of a class it has is random.
///
/// With one rank a window can be a batch. With several, the joined batch has each class's part; a
/// single rank's batch has it on average.
///
/// Thread-safety: as `EpochSampler`. Copies share what follows from the labels: 8 bytes a sample,
/// twice with `Proportional`.
/// Source: Steiner and Yeomans, "Level schedules for mixed-model, just-in-time processes" (1993),
/// for which class comes when.
class LOCKSTEP_API StratifiedSampler final : public EpochSampler {
 public:
  /// The dataset has as many samples as there are labels. A label may be any number.
  /// Throws: `c10::Error` as `EpochSampler`, without labels, without a window, and for
  /// `num_samples` with `Proportional`.
  explicit StratifiedSampler(const std::vector<std::int64_t>& labels, int world_size = 1,
                             int rank = 0, const StratifiedSamplerOptions& options = {});

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
  void epoch_changed() override;

  std::uint64_t window_;
  std::shared_ptr<const detail::Strata> strata_;
  std::vector<KeyedPermutation> orders_;  // of each class in this epoch
};

}  // namespace lockstep::data
