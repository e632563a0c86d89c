// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/error_feedback.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace lockstep::testing {
namespace {

using hooks::ErrorFeedback;

class ErrorFeedbackOfGradients : public ::testing::Test {
 protected:
  ErrorFeedbackOfGradients() { errors_.keep(parameter_, torch::tensor({1.0, 2.0})); }

  /// What becomes of a gradient.
  torch::Tensor with_error(torch::Tensor gradient) {
    errors_.add(parameter_, gradient);
    return gradient;
  }

  torch::Tensor parameter_ = torch::zeros({2}, torch::kDouble);
  ErrorFeedback errors_;
};

TEST_F(ErrorFeedbackOfGradients, IsAddedWhateverTheSignOfTheGradient) {
  EXPECT_TRUE(torch::equal(with_error(torch::tensor({-1.0, 0.0})), torch::tensor({0.0, 2.0})));
  EXPECT_TRUE(torch::equal(with_error(torch::tensor({0.0, 1.0})), torch::tensor({1.0, 3.0})));
  EXPECT_TRUE(torch::equal(with_error(torch::tensor({0.0, 1e-300}, torch::kDouble)),
                           torch::tensor({1.0, 2.0}, torch::kDouble)));
}

TEST_F(ErrorFeedbackOfGradients, WaitsForAGradientThatIsNotAllZeros) {
  EXPECT_TRUE(torch::equal(with_error(torch::zeros({2})), torch::zeros({2})));
  errors_.keep(parameter_, torch::tensor({0.5, 0.25}));
  EXPECT_TRUE(torch::equal(errors_.of(parameter_), torch::tensor({1.5, 2.25})));

  const auto left_out = with_error(torch::ones({2})) - 2;
  errors_.keep(parameter_, left_out);
  EXPECT_TRUE(torch::equal(errors_.of(parameter_), torch::tensor({0.5, 1.25})));
}

TEST_F(ErrorFeedbackOfGradients, KeepsNothingOfAGradientThatIsNotFinite) {
  const auto bad = with_error(torch::tensor({std::numeric_limits<float>::quiet_NaN(), 0.0F}));
  EXPECT_TRUE(std::isnan(bad[0].item<float>()));
  EXPECT_EQ(bad[1].item<float>(), 2);
  errors_.keep(parameter_, bad);
  EXPECT_TRUE(torch::equal(errors_.of(parameter_), torch::tensor({0.0, 2.0})));
}

TEST(ErrorFeedbackOfNothing, IsNothing) {
  ErrorFeedback errors;
  const auto parameter = torch::zeros({0, 3});
  errors.keep(parameter, torch::zeros({0, 3}));
  errors.add(parameter, torch::zeros({0, 3}));
  errors.keep(parameter, torch::zeros({0, 3}));
  EXPECT_EQ(errors.of(parameter).numel(), 0);
}

}  // namespace
}  // namespace lockstep::testing
