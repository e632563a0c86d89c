// SPDX-License-Identifier: BSD-3-Clause
#include "learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace example {
namespace {

/// The rate of each step of a run, and the one after the last.
std::vector<double> rates(double peak, int64_t warmup_steps, int64_t total_steps) {
  torch::optim::SGD optimizer({torch::zeros({1}, torch::requires_grad())},
                              torch::optim::SGDOptions(peak));
  auto schedule = make_schedule(optimizer, warmup_steps, total_steps);
  std::vector<double> all;
  for (int64_t step = 0; step <= total_steps; ++step) {
    all.push_back(optimizer.param_groups()[0].options().get_lr());
    optimizer.step();
    if (step < total_steps) schedule.step();
  }
  return all;
}

TEST(LearningRate, ClimbsInALineAndFallsAlongACosine) {
  const auto rate = rates(0.8, 4, 12);
  EXPECT_NEAR(rate[0], 0.2, 1e-12);
  EXPECT_NEAR(rate[1], 0.4, 1e-12);
  EXPECT_NEAR(rate[3], 0.8, 1e-12);
  EXPECT_NEAR(rate[4], 0.8, 1e-12);
  EXPECT_NEAR(rate[6], 0.4 * (1 + std::sqrt(0.5)), 1e-12);  // a quarter of the way down
  EXPECT_NEAR(rate[8], 0.4, 1e-12);
  EXPECT_NEAR(rate[10], 0.4 * (1 - std::sqrt(0.5)), 1e-12);
  EXPECT_GT(rate[11], 0);
  EXPECT_NEAR(rate[12], 0, 1e-12);
}

TEST(LearningRate, NeedsNoWarmupAndNoCosine) {
  EXPECT_DOUBLE_EQ(rates(0.1, 0, 10)[0], 0.1);
  EXPECT_DOUBLE_EQ(rates(0.1, 1, 10)[1], 0.1);
  EXPECT_NEAR(rates(0.1, 2, 2)[0], 0.05, 1e-12);
  EXPECT_NEAR(rates(0.1, 2, 2)[1], 0.1, 1e-12);
}

TEST(LearningRate, RefusesWhatMakesNoSense) {
  EXPECT_THROW(rates(0.1, 2, 1), c10::ValueError);
  EXPECT_THROW(rates(0.1, -1, 1), c10::ValueError);
}

}  // namespace
}  // namespace example
