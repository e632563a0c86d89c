// SPDX-License-Identifier: BSD-3-Clause
#include "learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace example {
namespace {

TEST(LearningRate, ClimbsInALineAndFallsAlongACosine) {
  const LearningRate rate(0.8, 4, 12);
  EXPECT_DOUBLE_EQ(rate.at(0), 0.2);
  EXPECT_DOUBLE_EQ(rate.at(1), 0.4);
  EXPECT_DOUBLE_EQ(rate.at(3), 0.8);
  EXPECT_DOUBLE_EQ(rate.at(4), 0.8);
  EXPECT_NEAR(rate.at(6), 0.4 * (1 + std::sqrt(0.5)),
              1e-12);  // a quarter of the way down: cos(45 degrees)
  EXPECT_NEAR(rate.at(8), 0.4, 1e-12);
  EXPECT_NEAR(rate.at(10), 0.4 * (1 - std::sqrt(0.5)), 1e-12);
  EXPECT_GT(rate.at(11), 0);
  EXPECT_EQ(rate.at(12), 0);
  EXPECT_EQ(rate.at(1000), 0);
}

TEST(LearningRate, NeedsNoWarmupAndNoCosine) {
  EXPECT_DOUBLE_EQ(LearningRate(0.1, 0, 10).at(0), 0.1);
  EXPECT_DOUBLE_EQ(LearningRate(0.1, 2, 2).at(1), 0.1);
  EXPECT_EQ(LearningRate(0.1, 2, 2).at(2), 0);
}

TEST(LearningRate, RefusesWhatMakesNoSense) {
  EXPECT_THROW(LearningRate(std::numeric_limits<double>::quiet_NaN(), 0, 1), c10::ValueError);
  EXPECT_THROW(LearningRate(std::numeric_limits<double>::infinity(), 0, 1), c10::ValueError);
  EXPECT_THROW(LearningRate(0, 0, 1), c10::ValueError);
  EXPECT_THROW(LearningRate(-0.1, 0, 1), c10::ValueError);
  EXPECT_THROW(LearningRate(0.1, 2, 1), c10::ValueError);
  EXPECT_THROW(LearningRate(0.1, -1, 1), c10::ValueError);
}

TEST(LearningRate, IsSetInEveryGroup) {
  const auto a = torch::zeros({1}, torch::requires_grad());
  const auto b = torch::zeros({1}, torch::requires_grad());
  torch::optim::SGD optimizer(
      std::vector<torch::optim::OptimizerParamGroup>{std::vector<torch::Tensor>{a},
                                                     std::vector<torch::Tensor>{b}},
      torch::optim::SGDOptions(1.0));
  set_learning_rate(optimizer, 0.25);
  for (const auto& group : optimizer.param_groups()) EXPECT_EQ(group.options().get_lr(), 0.25);
}

}  // namespace
}  // namespace example
