// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/sample_weights.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>

namespace lockstep {

void SampleWeights::begin_iteration(ProcessGroup& group, std::optional<std::int64_t> samples) {
  scale_ = 1;
  if (averaging_ != GradientAveraging::Samples) return;
  if (nominal_ == 0) {
    const auto most = at::full({1}, samples.value_or(0), at::kLong);
    group.all_reduce(most, ReduceOp::Max).wait();
    nominal_ = std::max<std::int64_t>(1, most.item<std::int64_t>());
  }
  scale_ = static_cast<double>(samples.value_or(0)) / static_cast<double>(nominal_);
}

double SampleWeights::factor(const UsageSummary& summary, int ranks) {
  const int active = summary.active_ranks();
  if (averaging_ == GradientAveraging::ActiveRanks) return static_cast<double>(ranks) / active;
  if (averaging_ == GradientAveraging::AllRanks) return 1;
  const auto total = static_cast<double>(summary.total_samples());
  if (total == 0) return 1;
  const double factor = static_cast<double>(ranks) * static_cast<double>(nominal_) / total;
  nominal_ = std::max<std::int64_t>(1, std::llround(total / active));
  return factor;
}

}  // namespace lockstep
