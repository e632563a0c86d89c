// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <cstdint>
#include <optional>

#include "parallel/buckets/reduction_summary.h"

namespace lockstep {

/// How much each rank's gradients count in an average: alike, or as many samples as they are of.
///
/// How many samples all ranks have is known at the end only, with the summary. So each rank
/// multiplies its gradients by its samples over a usual number, and all of them the average by
/// what that was wrong. Thread-safety: guarded by the reducer's lock.
class SampleWeights {
 public:
  explicit SampleWeights(GradientAveraging averaging) : averaging_(averaging) {}

  /// A cycle begins with so many samples of this rank; nothing: it has no data. Collective in the
  /// first one, where samples count.
  void begin_cycle(ProcessGroup& group, std::optional<std::int64_t> samples);
  /// Of this rank's gradients in this cycle.
  [[nodiscard]] double scale() const noexcept { return scale_; }
  /// Of all averages of the cycle that this summary is of. Once a cycle.
  [[nodiscard]] double factor(const ReductionSummary& summary, int ranks);

 private:
  GradientAveraging averaging_;
  std::int64_t nominal_ = 0;  // samples that a rank usually has; 0: not known yet
  double scale_ = 1;
};

}  // namespace lockstep
