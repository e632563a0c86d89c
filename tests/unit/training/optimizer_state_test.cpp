// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/optimizer_state.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <limits>
#include <string>

#include "support/expected_errors.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;
namespace nn = torch::nn;
namespace optim = torch::optim;

void train(nn::Linear& net, optim::Optimizer& optimizer, int steps) {
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    net(torch::ones({2, 3})).square().mean().backward();
    optimizer.step();
  }
}

TEST(OptimizerState, HasPythonsNames) {
  nn::Linear net(3, 2);
  optim::AdamW optimizer(net->parameters(), optim::AdamWOptions(1e-3));
  train(net, optimizer, 2);
  const auto state = state_of(optimizer, net);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : state.tensors) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"state.bias.exp_avg", "state.bias.exp_avg_sq",
                                             "state.bias.step", "state.weight.exp_avg",
                                             "state.weight.exp_avg_sq", "state.weight.step"}));
  EXPECT_TRUE(state.tensors.at("state.bias.step").equal(torch::tensor(2.0F)));
  EXPECT_EQ(state.param_groups,
            R"([{"lr":0.001,"betas":[0.9,0.999],"eps":1e-08,"weight_decay":0.01,"amsgrad":false,)"
            R"("maximize":false,"foreach":null,"capturable":false,"differentiable":false,)"
            R"("fused":null,"decoupled_weight_decay":true,"params":["weight","bias"]}])");
}

TEST(OptimizerState, GoesOnWithTheSameBits) {
  const TemporaryFolder folder;
  nn::Linear net(3, 2);
  nn::Linear other(3, 2);
  {
    torch::NoGradGuard no_gradients;
    other->weight.copy_(net->weight);
    other->bias.copy_(net->bias);
  }
  const double rate = 0.1 + 0.2;  // has 17 digits
  const auto make = [](nn::Linear& of, double lr) {
    return optim::SGD(
        {optim::OptimizerParamGroup({of->weight}, std::make_unique<optim::SGDOptions>(
                                                      optim::SGDOptions(lr).momentum(0.9))),
         optim::OptimizerParamGroup({of->bias},
                                    std::make_unique<optim::SGDOptions>(optim::SGDOptions(0.5)))},
        optim::SGDOptions(lr));
  };
  auto optimizer = make(net, rate);
  train(net, optimizer, 3);
  save_optimizer(optimizer, net, folder / "a");
  {
    torch::NoGradGuard no_gradients;
    other->weight.copy_(net->weight);
    other->bias.copy_(net->bias);
  }
  auto resumed = make(other, 7);
  load_optimizer(resumed, other, folder / "a");
  EXPECT_EQ(resumed.param_groups()[0].options().get_lr(), rate);
  EXPECT_EQ(resumed.param_groups()[1].options().get_lr(), 0.5);
  train(net, optimizer, 3);
  train(other, resumed, 3);
  EXPECT_TRUE(net->weight.equal(other->weight));
  EXPECT_TRUE(net->bias.equal(other->bias));
}

TEST(OptimizerState, StaysAsItWasWhenAnOptimizerGoesOnWithIt) {
  nn::Linear net(3, 2);
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(0.1).momentum(0.9));
  train(net, optimizer, 2);
  OptimizerState state = state_of(optimizer, net);
  for (auto& [name, tensor] : state.tensors) tensor = tensor.clone();
  const auto momentum = state.tensors.at("state.weight.momentum_buffer");
  const auto before = momentum.clone();
  load_state(optimizer, net, state);
  train(net, optimizer, 2);
  EXPECT_TRUE(momentum.equal(before));
  EXPECT_FALSE(state_of(optimizer, net).tensors.at("state.weight.momentum_buffer").equal(before));
}

TEST(OptimizerState, RatesThatJsonHasNoNumberForComeBack) {
  nn::Linear net(3, 2);
  for (const double rate : {std::numeric_limits<double>::infinity(), 1e-310, 5e-324, 1e308, 3.0}) {
    optim::SGD optimizer(net->parameters(), optim::SGDOptions(rate));
    const auto state = state_of(optimizer, net);
    optim::SGD other(net->parameters(), optim::SGDOptions(1));
    load_state(other, net, state);
    EXPECT_EQ(other.param_groups()[0].options().get_lr(), rate);
  }
}

class OptimizerStateErrors : public ::testing::Test {
 protected:
  OptimizerStateErrors() { train(net, optimizer, 1); }
  void expect_refused(const OptimizerState& state, const std::string& reason) {
    const auto before = state_of(optimizer, net);
    expect_refusal([&] { load_state(optimizer, net, state); }, reason);
    const auto after = state_of(optimizer, net);
    EXPECT_EQ(after.param_groups, before.param_groups);
    ASSERT_EQ(after.tensors.size(), before.tensors.size());
    for (const auto& [name, tensor] : before.tensors) {
      EXPECT_TRUE(after.tensors.at(name).equal(tensor)) << name;
    }
  }

  nn::Linear net{3, 2};
  optim::Adam optimizer{net->parameters(), optim::AdamOptions(0.1)};
};

TEST_F(OptimizerStateErrors, NameWhatDoesNotFit) {
  const auto good = state_of(optimizer, net);
  auto state = good;
  state.tensors["state.bias.exp_avg"] = torch::ones({3});
  expect_refused(state,
                 "'state.bias.exp_avg' is Float of shape [3]; for its parameter it must be "
                 "Float of shape [2]");
  state.tensors["state.bias.exp_avg"] = torch::ones({2}, torch::kDouble);
  expect_refused(state, "'state.bias.exp_avg' is Double");
  state = good;
  state.tensors.erase("state.bias.exp_avg");
  expect_refused(state, "there is no 'state.bias.exp_avg'");
  state = good;
  state.tensors.erase("state.bias.step");
  expect_refused(state, "there is no 'state.bias.step'");
  state = good;
  state.tensors["state.bias.step"] = torch::tensor(1.5);
  expect_refused(state, "'state.bias.step' is 1.5; expected a whole number");
  state.tensors["state.bias.step"] = torch::ones({2});
  expect_refused(state, "must be one number");
  state = good;
  state.tensors["state.bias.momentum_buffer"] = torch::ones({2});
  expect_refused(state, "'state.bias.momentum_buffer' belongs to none of its parameters");
  state = good;
  state.tensors["state.gone.step"] = torch::tensor(1.0);
  expect_refused(state, "'state.gone.step' belongs to none");
}

TEST_F(OptimizerStateErrors, NameGroupsThatDoNotFit) {
  const auto good = state_of(optimizer, net);
  const auto with = [&](const std::string& groups) { return OptimizerState{good.tensors, groups}; };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good.param_groups;
    text.replace(text.find(from), from.size(), to);
    return with(text);
  };
  expect_refused(with("[]"), "has 0 groups; this optimizer has 1");
  expect_refused(with(""), "expected an array");
  expect_refused(with("{}"), "expected an array");
  expect_refused(with("[1]"), "an array of groups");
  expect_refused(with("[[]]"), "an array of groups");
  expect_refused(with(R"([{"lr":{}}])"), "an array of groups");
  expect_refused(with(R"([{"params":[1]}])"), "an array of groups");
  expect_refused(replaced("\"weight\",\"bias\"", "\"weight\""), "has no parameter 'bias'");
  expect_refused(replaced("\"weight\"", "\"weight\",\"x\""), "has a parameter 'x'");
  expect_refused(replaced("\"lr\":0.1", "\"lr\":\"fast\""), "'lr' is 'fast', which is no number");
  expect_refused(replaced("\"lr\":0.1", "\"lr\":[0.1,0.2]"), "'lr' has 2 values; expected one");
  expect_refused(replaced("\"lr\":0.1", "\"rate\":0.1"), "a group has no 'lr'");
  expect_refused(replaced("\"amsgrad\":false", "\"amsgrad\":0"), "'amsgrad' is '0'");
  expect_refused(replaced("[0.9,0.999]", "0.9"), "'betas' has 1 values; expected two");
}

TEST_F(OptimizerStateErrors, OfAnotherKindOfOptimizer) {
  optim::SGD sgd(net->parameters(), optim::SGDOptions(0.1).momentum(0.9));
  train(net, sgd, 1);
  expect_refused(state_of(sgd, net), "a group has no 'betas'; is it of another kind of optimizer?");
  // The same names, and another rule.
  optim::AdamW adamw(net->parameters(), optim::AdamWOptions(0.1));
  train(net, adamw, 1);
  expect_refused(state_of(adamw, net), "'decoupled_weight_decay' is true");
  auto state = state_of(optimizer, net);
  state.param_groups.replace(state.param_groups.find("\"maximize\":false"), 16,
                             "\"maximize\":true");
  expect_refused(state, "'maximize' is true");
}

TEST_F(OptimizerStateErrors, ParametersWithoutANameAreRefused) {
  nn::Linear other(3, 2);
  expect_refusal([&] { static_cast<void>(state_of(optimizer, other)); },
                 "a parameter of shape [2, 3] is none of the module's");
}

struct OwnOptions : optim::OptimizerCloneableOptions<OwnOptions> {};
struct Own : optim::Optimizer {
  explicit Own(std::vector<torch::Tensor> parameters)
      : Optimizer(std::move(parameters), std::make_unique<OwnOptions>()) {}
  torch::Tensor step(LossClosure) override { return {}; }
};

TEST_F(OptimizerStateErrors, OptimizersOfUsersAreRefused) {
  Own own(net->parameters());
  expect_refusal([&] { static_cast<void>(state_of(own, net)); },
                 "there are no names for what an optimizer");
}

TEST_F(OptimizerStateErrors, AFileOfSomethingElseIsRefused) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", {{"x", torch::ones({1})}});
  expect_refusal([&] { load_optimizer(optimizer, net, folder / "a"); },
                 "its metadata have no 'param_groups'");
}

}  // namespace
}  // namespace lockstep::training
