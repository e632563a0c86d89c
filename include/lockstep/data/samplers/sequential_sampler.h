// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/epoch_sampler.h>

#include <cstddef>
#include <cstdint>

namespace lockstep::data {

/// Gives 0, 1, 2, ... in every epoch; for evaluation.
///
/// Thread-safety: as `EpochSampler`.
class LOCKSTEP_API SequentialSampler final : public EpochSampler {
 public:
  /// The share of rank `rank` of `world_size`.
  /// Throws: `c10::Error` as `EpochSampler`.
  explicit SequentialSampler(std::size_t dataset_size, int world_size = 1, int rank = 0,
                             Remainder remainder = Remainder::Exact);

 private:
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override;
};

}  // namespace lockstep::data
