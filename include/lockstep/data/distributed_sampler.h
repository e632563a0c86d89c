// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::data {

/// What happens when the samples cannot be shared out evenly.
enum class Remainder {
  Pad,    ///< the first indices of the epoch are repeated, so that every rank has the same number
  Drop,   ///< the last indices of the epoch are left out, so that every rank has the same number
  Exact,  ///< every index goes to exactly one rank; numbers differ by at most one (for evaluation)
};

struct LOCKSTEP_API DistributedSamplerOptions {
  /// Whether each epoch has an order of its own; otherwise 0, 1, 2, ...
  TORCH_ARG(bool, shuffle) = true;
  /// Together with the epoch it decides the order. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  TORCH_ARG(Remainder, remainder) = Remainder::Pad;
};

/// Which samples one rank sees in one epoch: every `world_size`-th of the epoch's order, from
/// `rank` on.
///
/// The order depends on the seed and the epoch only, so ranks need not talk to each other.
///
/// Thread-safety: a value; const members may be called from several threads.
/// Source: `torch.utils.data.DistributedSampler` of PyTorch 2.11, index for index (`Pad` is its
/// `drop_last=False`, `Drop` its `drop_last=True`; `Exact` has no counterpart there).
class LOCKSTEP_API DistributedSampler {
 public:
  /// Throws: `c10::Error` when the dataset is empty, the world has no ranks, or `rank` lies outside
  /// of it.
  DistributedSampler(std::size_t dataset_size, int world_size, int rank,
                     DistributedSamplerOptions options = {});

  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch);
  [[nodiscard]] std::int64_t epoch() const noexcept { return epoch_; }

  /// How many indices this rank has in an epoch; 0 is possible with `Drop` and `Exact` on a dataset
  /// smaller than the world.
  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] std::size_t dataset_size() const noexcept { return dataset_size_; }

  /// This rank's indices of the current epoch, in order; each below `dataset_size()`.
  [[nodiscard]] std::vector<std::int64_t> indices() const;

 private:
  // Positions of the epoch's order that are shared out, beyond dataset_size_ where padding repeats
  // the first ones.
  [[nodiscard]] std::size_t total_size() const noexcept;

  std::size_t dataset_size_;
  std::size_t world_size_;
  std::size_t rank_;
  DistributedSamplerOptions options_;
  std::int64_t epoch_ = 0;
};

}  // namespace lockstep::data
