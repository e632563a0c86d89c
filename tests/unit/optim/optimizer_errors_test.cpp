// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <limits>
#include <sstream>

#include "optimizer_kinds.h"
#include "support/expected_errors.h"

namespace lockstep::optim {
namespace {

using namespace testing;
using lockstep::testing::expect_refusal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class Kind, class Options>
void expect_options_refused(const Options& options, const std::string& reason) {
  const std::vector<torch::Tensor> parameters{torch::zeros({2, 2}).requires_grad_()};
  expect_refusal([&] { Kind{parameters, options}; }, reason);
  // The same in a group of its own, and in one that changes later.
  Kind good(parameters, Options());
  good.param_groups()[0].set_options(std::make_unique<Options>(options));
  expect_refusal([&] { good.step(); }, reason);
}

TEST(OptimizerErrors, OptionsOutOfRange) {
  expect_options_refused<SGD>(SGDOptions(-1), "lockstep::optim::SGD: lr is -1; expected 0 or more");
  expect_options_refused<SGD>(SGDOptions(kNaN), "lr is nan");
  expect_options_refused<SGD>(SGDOptions().momentum(-1), "momentum is -1");
  expect_options_refused<SGD>(SGDOptions().weight_decay(-1), "weight_decay is -1");
  expect_options_refused<SGD>(SGDOptions().nesterov(true), "nesterov needs a momentum above 0");
  expect_options_refused<SGD>(SGDOptions().nesterov(true).momentum(0.9).dampening(0.1), "and 0.1");
  expect_options_refused<Adam>(AdamOptions().betas({1, 0}), "Adam: the first of betas is 1");
  expect_options_refused<Adam>(AdamOptions().betas({0, -1}), "the second of betas is -1");
  expect_options_refused<Adam>(AdamOptions().eps(-1), "eps is -1");
  expect_options_refused<AdamW>(AdamWOptions().weight_decay(-1), "AdamW: weight_decay is -1");
  expect_options_refused<RMSprop>(RMSpropOptions().alpha(-1), "alpha is -1");
  expect_options_refused<RMSprop>(RMSpropOptions().momentum(-1), "momentum is -1");
  expect_options_refused<Adagrad>(AdagradOptions().lr_decay(-1), "lr_decay is -1");
  expect_options_refused<Adagrad>(AdagradOptions().initial_accumulator_value(-1),
                                  "initial_accumulator_value is -1");
  expect_options_refused<LAMB>(LAMBOptions().betas({0, 2}), "the second of betas is 2");
  expect_options_refused<LAMB>(LAMBOptions().max_grad_norm(0), "max_grad_norm is 0");
  expect_options_refused<LARS>(LARSOptions().trust_coeff(-1), "trust_coeff is -1");
  expect_options_refused<LARS>(LARSOptions().nesterov(true), "LARS: nesterov needs");
  expect_options_refused<Muon>(MuonOptions().ns_steps(100), "ns_steps is 100; expected 0 to 99");
  expect_options_refused<Muon>(MuonOptions().adjust_lr_fn("other"), "adjust_lr_fn is 'other'");
  expect_options_refused<Muon>(MuonOptions().ns_dtype(torch::kInt), "ns_dtype is Int");
  expect_refusal([] { static_cast<void>(no_decay_groups(torch::nn::Linear(2, 2), -1)); },
                 "weight_decay is -1");
}

TEST(OptimizerErrors, OptionsOfAnotherOptimizer) {
  const auto parameter = torch::zeros({2, 2}).requires_grad_();
  const auto make = [&] {
    AdamW({torch::optim::OptimizerParamGroup({parameter},
                                             std::make_unique<torch::optim::AdamWOptions>(0.1))});
  };
  expect_refusal(make, "expected lockstep::optim::AdamWOptions");
}

TEST(OptimizerErrors, ParametersThatCannotBeUpdated) {
  const auto matrix = torch::zeros({2, 2}).requires_grad_();
  const auto vector = torch::zeros({3}).requires_grad_();
  expect_refusal([&] { Muon({matrix, vector}); }, "a parameter is of shape [3]; expected matrices");
  const auto complex = torch::zeros({2}, torch::kComplexFloat).requires_grad_();
  expect_refusal([&] { SGD({complex}); }, "expected a dense one of real numbers");
  expect_refusal(
      [&] {
        SGD(std::vector<torch::optim::OptimizerParamGroup>{
            torch::optim::OptimizerParamGroup({matrix}),
            torch::optim::OptimizerParamGroup({vector, matrix})});
      },
      "a parameter of shape [2, 2] is in group 0 and in group 1");
  // Those that come later.
  Muon optimizer({matrix});
  optimizer.add_param_group(torch::optim::OptimizerParamGroup({vector}));
  vector.mutable_grad() = torch::ones({3});
  expect_refusal([&] { optimizer.step(); }, "expected matrices");
  SGD twice({matrix});
  twice.add_param_group(torch::optim::OptimizerParamGroup({matrix}));
  expect_refusal([&] { twice.step(); }, "is in group 0 and in group 1");
}

TEST(OptimizerErrors, GradientsThatDoNotFit) {
  const auto parameter = torch::zeros({2, 2}).requires_grad_();
  SGD optimizer({parameter}, SGDOptions(1).momentum(0.9));
  const auto expect_gradient_refused = [&](const torch::Tensor& gradient, const std::string& why) {
    // As in the first step and later.
    for (int i = 0; i < 2; ++i) {
      parameter.mutable_grad() = gradient;
      expect_refusal([&] { optimizer.step(); }, why);
      EXPECT_TRUE(parameter.eq(-static_cast<double>(i)).all().item<bool>());
      parameter.mutable_grad() = torch::ones({2, 2});
      if (i == 0) optimizer.step();
    }
    optimizer.state().clear();
    torch::NoGradGuard without_gradients;
    parameter.zero_();
  };
  expect_gradient_refused(torch::ones({2, 2}).to_sparse(), "is sparse; expected a dense one");
  expect_gradient_refused(torch::ones({4}), "a gradient is Float of shape [4]");
  expect_gradient_refused(torch::ones({2, 2}, torch::kLong), "a gradient is Long");
}

/// A step that fails in the middle counts for nothing that it did not do.
TEST(OptimizerErrors, AStepThatFailedCanBeMadeAgain) {
  const auto first = parameter_of(values({3, 4}, 0));
  const auto alone = parameter_of(values({3, 4}, 0));
  const auto second = parameter_of(values({2, 2}, 0));
  AdamW optimizer({first, second});
  set_gradient(first, 0);
  second.mutable_grad() = torch::ones({3});
  expect_refusal([&] { optimizer.step(); }, "a gradient is Float of shape [3]");
  make_steps(optimizer, 0, 2);
  second.mutable_grad() = torch::ones({3});
  expect_refusal([&] { optimizer.step(); }, "a gradient is Float of shape [3]");
  make_steps(optimizer, 2, 3);
  // One that fails while the lists are made anew, at the last parameter.
  const auto third = parameter_of(values({2, 2}, 0));
  optimizer.param_groups()[0].params().push_back(third);
  third.mutable_grad() = torch::ones({3});
  expect_refusal([&] { optimizer.step(); }, "a gradient is Float of shape [3]");
  make_steps(optimizer, 3, 4);
  AdamW other({alone});
  make_steps(other, 0, 4);
  EXPECT_TRUE(first.equal(alone));
}

TEST(OptimizerErrors, StatesThatDoNotFit) {
  const auto parameter = torch::zeros({2, 2}).requires_grad_();
  AdamW optimizer({parameter});
  make_steps(optimizer, 0, 1);
  expect_refusal([&] { static_cast<void>(optimizer.state_tensor(parameter, "momentum_buffer")); },
                 "has no tensor 'momentum_buffer'");
  EXPECT_FALSE(optimizer.state_tensor(parameter, "max_exp_avg_sq").defined());
  EXPECT_FALSE(optimizer.state_tensor(torch::zeros({1}), "exp_avg").defined());
  parameter.set_data(torch::zeros({3, 3}));
  parameter.mutable_grad() = torch::Tensor();
  parameter.mutable_grad() = torch::ones({3, 3});
  expect_refusal([&] { optimizer.step(); }, "'exp_avg' is of shape [2, 2]; its parameter is of");
  optimizer.state()[parameter.unsafeGetTensorImpl()] =
      std::make_unique<torch::optim::AdamWParamState>();
  expect_refusal([&] { optimizer.step(); }, "is of another kind of optimizer");
}

TEST(OptimizerErrors, ArchivesAreRefused) {
  AdamW optimizer({torch::zeros({2, 2}).requires_grad_()});
  std::ostringstream stream;
  expect_refusal([&] { torch::save(optimizer, stream); }, "lockstep::training::save_optimizer");
  torch::serialize::InputArchive archive;
  expect_refusal([&] { optimizer.load(archive); }, "lockstep::training::load_optimizer");
}

}  // namespace
}  // namespace lockstep::optim
