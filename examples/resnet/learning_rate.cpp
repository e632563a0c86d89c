// SPDX-License-Identifier: BSD-3-Clause
#include "learning_rate.h"

#include <cmath>
#include <numbers>

namespace example {

lockstep::optim::lr_scheduler::LambdaLR make_schedule(torch::optim::Optimizer& optimizer,
                                                      int64_t warmup_steps, int64_t total_steps) {
  TORCH_CHECK_VALUE(warmup_steps >= 0 && warmup_steps <= total_steps, "a warm-up of ", warmup_steps,
                    " steps does not fit a run of ", total_steps, " steps");
  return {optimizer, [=](int64_t step) {
            if (step >= total_steps) return 0.0;
            if (step < warmup_steps) {
              return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
            }
            const double passed = static_cast<double>(step - warmup_steps) /
                                  static_cast<double>(total_steps - warmup_steps);
            return 0.5 * (1.0 + std::cos(std::numbers::pi * passed));
          }};
}

}  // namespace example
