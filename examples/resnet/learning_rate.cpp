// SPDX-License-Identifier: BSD-3-Clause
#include "learning_rate.h"

#include <algorithm>
#include <vector>

namespace example {

std::unique_ptr<lockstep::optim::lr_scheduler::LRScheduler> make_schedule(
    torch::optim::Optimizer& optimizer, int64_t warmup_steps, int64_t total_steps) {
  using namespace lockstep::optim::lr_scheduler;
  TORCH_CHECK_VALUE(warmup_steps >= 0 && warmup_steps <= total_steps, "a warm-up of ", warmup_steps,
                    " steps does not fit a run of ", total_steps, " steps");
  const auto fall = std::max<int64_t>(1, total_steps - warmup_steps);
  if (warmup_steps == 0) return std::make_unique<CosineAnnealingLR>(optimizer, fall);
  const auto climb = std::max<int64_t>(1, warmup_steps - 1);
  const std::vector<SchedulePart> parts{
      part<LinearLR>(1.0 / static_cast<double>(warmup_steps), 1.0, climb),
      part<CosineAnnealingLR>(fall)};
  return std::make_unique<SequentialLR>(optimizer, parts, std::vector{warmup_steps});
}

}  // namespace example
