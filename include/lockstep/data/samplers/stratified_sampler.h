// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lockstep::data {

namespace detail {
struct Strata;
}

/// How often the samples of a class come.
enum class ClassBalance {
  Proportional,  ///< as in the dataset; each sample comes once an epoch
  Balanced,      ///< all alike; samples of rare classes come more often (each time with the same
                 ///< `SampleRandom`), of frequent ones less
};

/// What a `StratifiedSampler` is told. The same on all ranks.
struct LOCKSTEP_API StratifiedSamplerOptions {
  /// Samples of the epoch's order that make up one window; at least 1. A good choice is what all
  /// ranks use in one step, as a number of its own: it decides the order, so a state can be loaded
  /// in a world of another size only if the window has stayed the same.
  TORCH_ARG(std::uint64_t, window) = 0;
  /// How often each class comes.
  TORCH_ARG(ClassBalance, balance) = ClassBalance::Proportional;
  /// Draws of an epoch over all ranks, with `Balanced`; 0 = as many as there are labels.
  TORCH_ARG(std::uint64_t, num_samples) = 0;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// What happens to samples that cannot be shared out evenly.
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Orders samples such that each class has its due part of every window, not only of the epoch: any
/// windows in a row have of each class what it is due to within less than two samples, and exactly
/// that where every window is due a whole number; with `Balanced`, to within less than one. Within
/// a window the order is random, and which samples of a class it has is random.
///
/// Which windows have more of a class than others is another matter in each epoch: what a loader
/// leaves out at the end (`drop_last`) is as likely of a rare class as of any other.
///
/// With one rank a window can be a batch. With several, the global batch has each class's part; a
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
  void vary_schedule();

  std::uint64_t window_;
  std::shared_ptr<const detail::Strata> strata_;
  std::vector<detail::KeyedPermutation> orders_;  // of each class in this epoch
  // With `Proportional`: where in the schedule this epoch begins, and which class has the places of
  // each.
  std::uint64_t turn_ = 0;
  std::vector<std::size_t> stand_ins_;
};

}  // namespace lockstep::data
