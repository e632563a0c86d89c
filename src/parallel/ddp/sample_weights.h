// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <cstdint>
#include <optional>

#include "parallel/buckets/usage_summary.h"

namespace lockstep {

/// How much each rank's gradients count in an average: the same for all ranks, or by their samples.
///
/// How many samples all ranks have is known at the end only, with the usage summary. So each rank
/// first multiplies its gradients by its samples over a usual number. At the end all ranks multiply
/// the averages by the factor that corrects for the usual number.
/// Thread-safety: guarded by the reducer's lock.
class SampleWeights {
 public:
  explicit SampleWeights(GradientAveraging averaging) : averaging_(averaging) {}

  /// An iteration begins with so many samples of this rank, or with none where it has no data.
  /// Collective: in the first iteration, where samples count.
  void begin_iteration(ProcessGroup& group, std::optional<std::int64_t> samples);
  /// The factor of this rank's gradients in this iteration.
  [[nodiscard]] double scale() const noexcept { return scale_; }
  /// The factor of all averages of the iteration that `summary` belongs to. It is asked once.
  [[nodiscard]] double factor(const UsageSummary& summary, int ranks);
  /// How many samples a rank usually has, the same on all ranks; 0: not known yet. For checkpoints:
  /// the roundings depend on it.
  [[nodiscard]] std::int64_t nominal() const noexcept { return nominal_; }
  void set_nominal(std::int64_t samples) noexcept { nominal_ = samples; }

 private:
  GradientAveraging averaging_;
  std::int64_t nominal_ = 0;  // samples that a rank usually has; 0: not known yet
  double scale_ = 1;
};

}  // namespace lockstep
