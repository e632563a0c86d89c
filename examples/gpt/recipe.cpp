// SPDX-License-Identifier: BSD-3-Clause
#include "recipe.h"

#include <lockstep/optim/decay_groups.h>

#include <algorithm>

namespace example {
namespace {

namespace lr_scheduler = lockstep::optim::lr_scheduler;

constexpr double kFirstShare = 0.01;  // of the highest rate, in step 0
constexpr double kLastShare = 0.1;    // after the last step

}  // namespace

lockstep::optim::AdamW make_optimizer(const torch::nn::Module& net, const Recipe& recipe) {
  return lockstep::optim::AdamW(
      lockstep::optim::no_decay_groups(net, recipe.weight_decay()),
      lockstep::optim::AdamWOptions(recipe.learning_rate()).betas({0.9, 0.99}));
}

std::unique_ptr<lr_scheduler::LRScheduler> make_schedule(torch::optim::Optimizer& optimizer,
                                                         const Recipe& recipe) {
  using namespace lr_scheduler;
  const auto fall = std::max<int64_t>(1, recipe.steps() - recipe.warmup());
  const double last = kLastShare * recipe.learning_rate();
  if (recipe.warmup() == 0) return std::make_unique<CosineAnnealingLR>(optimizer, fall, last);
  const std::vector<SchedulePart> parts{part<LinearLR>(kFirstShare, 1.0, recipe.warmup()),
                                        part<CosineAnnealingLR>(fall, last)};
  return std::make_unique<SequentialLR>(optimizer, parts, std::vector{recipe.warmup()});
}

}  // namespace example
