// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/optim/clip_grad.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/expected_errors.h"

namespace lockstep::testing {
namespace {

using torch::Tensor;

Tensor with_gradient(const Tensor& gradient) {
  auto parameter = torch::zeros_like(gradient.is_sparse() ? gradient.to_dense() : gradient);
  parameter.requires_grad_();
  parameter.mutable_grad() = gradient.clone();
  return parameter;
}

TEST(ClipGradNorm, BoundsTheNormOfAllGradients) {
  const std::vector<Tensor> parameters{with_gradient(torch::tensor({3.0F})),
                                       torch::zeros({2}).requires_grad_(), Tensor(),
                                       with_gradient(torch::tensor({0.0, 4.0}))};
  EXPECT_EQ(optim::clip_grad_norm_(parameters, 10).item<double>(), 5);
  EXPECT_EQ(parameters[0].grad().item<float>(), 3);
  EXPECT_EQ(optim::clip_grad_norm_(parameters, 1).item<double>(), 5);
  EXPECT_NEAR(parameters[0].grad().item<double>(), 0.6, 1e-6);
  EXPECT_NEAR(parameters[3].grad()[1].item<double>(), 0.8, 1e-6);
  EXPECT_FALSE(parameters[1].grad().defined());
  EXPECT_EQ(optim::clip_grad_norm_({}, 1).item<float>(), 0);
}

TEST(ClipGradNorm, CountsATiedParameterOnce) {
  const auto tied = with_gradient(torch::tensor({3.0F, 4.0F}));
  EXPECT_EQ(optim::clip_grad_norm_({tied, tied}, 2.5).item<float>(), 5);
  EXPECT_NEAR(tied.grad().norm().item<double>(), 2.5, 1e-5);
}

TEST(ClipGradNorm, AddsTheRowsOfASparseGradient) {
  const auto indices = torch::tensor({{1, 1, 0}});
  const auto values = torch::tensor({1.0F, 2.0F, 4.0F});
  const auto parameter = with_gradient(torch::sparse_coo_tensor(indices, values, {3}));
  EXPECT_EQ(optim::clip_grad_norm_({parameter}, 2.5).item<float>(), 5);
  EXPECT_TRUE(parameter.grad().is_sparse());
  EXPECT_TRUE(torch::allclose(parameter.grad().to_dense(), torch::tensor({2.0F, 1.5F, 0.0F})));
  const auto other = with_gradient(torch::sparse_coo_tensor(indices, values, {3}));
  optim::clip_grad_value_({other}, 2);
  EXPECT_TRUE(torch::equal(other.grad().to_dense(), torch::tensor({2.0F, 2.0F, 0.0F})));
}

TEST(ClipGradNorm, RefusesANormThatIsNotFiniteOnlyWhereAsked) {
  for (const float odd : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const auto parameter = with_gradient(torch::tensor({1.0F, odd}));
    expect_refusal([&] { optim::clip_grad_norm_({parameter}, 1, 2, true); }, "cannot be clipped");
    EXPECT_EQ(parameter.grad()[0].item<float>(), 1);
    EXPECT_FALSE(std::isfinite(optim::clip_grad_norm_({parameter}, 1).item<float>()));
    EXPECT_EQ(std::isnan(parameter.grad()[0].item<float>()), std::isnan(odd));
  }
}

TEST(ClipGradNorm, HasTwoHalves) {
  const auto parameter = with_gradient(torch::tensor({3.0F, 4.0F}));
  const auto norm = optim::get_total_norm({parameter.grad()});
  EXPECT_EQ(norm.item<float>(), 5);
  optim::clip_grads_with_norm_({parameter}, 1, norm * 2);
  EXPECT_NEAR(parameter.grad()[0].item<double>(), 0.3, 1e-6);
}

TEST(ClipGradValue, BoundsEachElementAndLeavesWhatIsNoNumber) {
  const auto parameter = with_gradient(torch::tensor({-3.0F, 0.5F, 9.0F, std::nanf("")}));
  optim::clip_grad_value_({parameter}, 1);
  EXPECT_TRUE(torch::equal(parameter.grad().slice(0, 0, 3), torch::tensor({-1.0F, 0.5F, 1.0F})));
  EXPECT_TRUE(std::isnan(parameter.grad()[3].item<float>()));
}

TEST(ClipGrad, RefusesBoundsThatAreNone) {
  for (const double bound : {-1.0, std::nan("")}) {
    expect_refusal([&] { optim::clip_grad_norm_({}, bound); }, "clip_grad_norm_: max_norm is");
    expect_refusal([&] { optim::clip_grads_with_norm_({}, bound, torch::ones({})); },
                   "clip_grads_with_norm_: max_norm is");
    expect_refusal([&] { optim::clip_grad_value_({}, bound); }, "clip_grad_value_: clip_value is");
  }
}

}  // namespace
}  // namespace lockstep::testing
