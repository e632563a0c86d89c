// SPDX-License-Identifier: BSD-3-Clause
#include "learning_rate.h"

#include <cmath>
#include <numbers>

namespace example {

LearningRate::LearningRate(double peak, int64_t warmup_steps, int64_t total_steps)
    : peak_(peak), warmup_steps_(warmup_steps), total_steps_(total_steps) {
  TORCH_CHECK_VALUE(std::isfinite(peak) && peak > 0, "the learning rate must be positive, not ",
                    peak);
  TORCH_CHECK_VALUE(warmup_steps >= 0 && warmup_steps <= total_steps, "a warm-up of ", warmup_steps,
                    " steps does not fit a run of ", total_steps, " steps");
}

double LearningRate::at(int64_t step) const {
  if (step >= total_steps_) return 0.0;
  if (step < warmup_steps_) {
    return peak_ * static_cast<double>(step + 1) / static_cast<double>(warmup_steps_);
  }
  const double passed =
      static_cast<double>(step - warmup_steps_) / static_cast<double>(total_steps_ - warmup_steps_);
  return peak_ * 0.5 * (1.0 + std::cos(std::numbers::pi * passed));
}

void set_learning_rate(torch::optim::Optimizer& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
}

}  // namespace example
