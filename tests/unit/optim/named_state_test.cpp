// SPDX-License-Identifier: BSD-3-Clause
// Saving and loading lockstep::optim's optimizers by names. optim_python_parity_test.cpp exchanges
// states with Python.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include "optimizer_kinds.h"
#include "support/expected_errors.h"
#include "support/raw_safetensors.h"

namespace lockstep::optim {
namespace {

using namespace testing;
using lockstep::testing::expect_refusal;
using training::load_state;
using training::OptimizerState;
using training::state_of;
namespace nn = torch::nn;

struct NetImpl : nn::Module {
  NetImpl() {
    weight = register_parameter("weight", values({4, 6}, 0));
    second = register_parameter("second", values({3, 3}, 1));
  }
  torch::Tensor weight;
  torch::Tensor second;
};
TORCH_MODULE(Net);

void copy_parameters(const Net& from, Net& to) {
  const torch::NoGradGuard without_gradients;
  to->weight.copy_(from->weight);
  to->second.copy_(from->second);
}

class EachNamedState : public ::testing::TestWithParam<OptimizerForTest> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EachNamedState, ::testing::ValuesIn(optimizers_for_test()),
                         [](const auto& test) { return test.param.name; });

TEST_P(EachNamedState, ARunThatIsResumedHasTheSameBits) {
  Net net;
  const auto optimizer = GetParam().make(net->parameters());
  make_steps(*optimizer, 0, 3);
  const training::TemporaryFolder folder;
  std::int64_t step = 3;
  training::TrainingState state;
  state.add("model", net).add("optimizer", *optimizer).add("step", step);
  const auto group = init_process_group();
  training::Checkpointer checkpointer(group, folder / "run");
  checkpointer.save(state, step);
  checkpointer.wait();
  make_steps(*optimizer, 3, 6);

  // Into an optimizer that has run, and whose lists are of another past.
  Net other;
  const auto resumed = GetParam().make(other->parameters());
  make_steps(*resumed, 7, 9);
  resumed->param_groups()[0].options().set_lr(123);
  std::int64_t other_step = 0;
  training::TrainingState other_state;
  other_state.add("model", other).add("optimizer", *resumed).add("step", other_step);
  ASSERT_TRUE(checkpointer.load_latest(other_state).has_value());
  EXPECT_EQ(other_step, 3);
  make_steps(*resumed, 3, 6);
  EXPECT_TRUE(other->weight.equal(net->weight));
  EXPECT_TRUE(other->second.equal(net->second));
}

TEST_P(EachNamedState, StatesOfShorterTypesComeBackWithTheirCopies) {
  Net net;
  net->to(torch::kBFloat16);
  const auto optimizer = GetParam().make(net->parameters());
  make_steps(*optimizer, 0, 3);
  const auto state = state_of(*optimizer, net);
  EXPECT_EQ(state.tensors.at("state.weight.master").scalar_type(), torch::kFloat);
  Net other;
  other->to(torch::kBFloat16);
  const auto resumed = GetParam().make(other->parameters());
  load_state(*resumed, other, state);
  copy_parameters(net, other);
  make_steps(*optimizer, 3, 5);
  make_steps(*resumed, 3, 5);
  EXPECT_TRUE(other->weight.equal(net->weight));
  EXPECT_TRUE(resumed->state_tensor(other->weight, "master")
                  .equal(optimizer->state_tensor(net->weight, "master")));
}

TEST_P(EachNamedState, AStateWithoutCopiesTakesThemFromTheParameters) {
  Net net;
  net->to(torch::kBFloat16);
  const auto optimizer = GetParam().make(net->parameters());
  make_steps(*optimizer, 0, 1);
  auto state = state_of(*optimizer, net);
  state.tensors.erase("state.weight.master");
  state.tensors.erase("state.second.master");
  // As Python has them, moments are of the parameter's type.
  for (auto& [name, tensor] : state.tensors) {
    if (tensor.dim() > 0) tensor = tensor.to(torch::kBFloat16);
  }
  load_state(*optimizer, net, state);
  const auto before = net->weight.detach().to(torch::kFloat);
  make_steps(*optimizer, 1, 2);
  const auto master = optimizer->state_tensor(net->weight, "master");
  EXPECT_EQ(master.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(master, before, 0.5, 0.5));
  EXPECT_FALSE(master.equal(before));
}

TEST(NamedState, HasPythonsNames) {
  Net net;
  AdamW optimizer(net->parameters(), AdamWOptions(1e-3));
  make_steps(optimizer, 0, 2);
  const auto state = state_of(optimizer, net);
  std::string names;
  for (const auto& [name, tensor] : state.tensors) names += name + " ";
  EXPECT_EQ(names,
            "state.second.exp_avg state.second.exp_avg_sq state.second.step state.weight.exp_avg "
            "state.weight.exp_avg_sq state.weight.step ");
  EXPECT_TRUE(state.tensors.at("state.second.step").equal(torch::tensor(2.0F)));
  EXPECT_EQ(
      state.param_groups,
      R"([{"lr":0.001,"betas":[0.9,0.999],"eps":1e-08,"weight_decay":0.01,"amsgrad":false,)"
      R"("maximize":false,"fused":true,"foreach":null,"capturable":false,)"
      R"("differentiable":false,"decoupled_weight_decay":true,"params":["weight","second"]}])");
}

TEST(NamedState, OfLibTorchsOptimizersAndBack) {
  Net net;
  torch::optim::AdamW theirs(net->parameters(), torch::optim::AdamWOptions(0.25));
  make_steps(theirs, 0, 2);
  AdamW ours(net->parameters(), AdamWOptions().fused(false));
  load_state(ours, net, state_of(theirs, net));
  EXPECT_EQ(ours.param_groups()[0].options().get_lr(), 0.25);
  // Python's None, which LibTorch's has, leaves the choice to the optimizer.
  EXPECT_FALSE(dynamic_cast<AdamWOptions&>(ours.param_groups()[0].options()).fused());
  make_steps(ours, 2, 3);
  EXPECT_TRUE(state_of(ours, net).tensors.at("state.weight.step").equal(torch::tensor(3.0F)));
  load_state(theirs, net, state_of(ours, net));
  EXPECT_TRUE(state_of(theirs, net).tensors.at("state.weight.step").equal(torch::tensor(3.0F)));
}

TEST(NamedState, OptionsOfThisKindAreRead) {
  Net net;
  Adam with_all(net->parameters(),
                AdamOptions(0.1).maximize(true).amsgrad(true).fused(false).weight_decay(0.5));
  Adam other(net->parameters());
  load_state(other, net, state_of(with_all, net));
  EXPECT_EQ(state_of(other, net).param_groups, state_of(with_all, net).param_groups);
  LAMB lamb(net->parameters(), LAMBOptions(0.1).max_grad_norm(std::nullopt).always_adapt(true));
  LAMB other_lamb(net->parameters());
  load_state(other_lamb, net, state_of(lamb, net));
  EXPECT_EQ(state_of(other_lamb, net).param_groups, state_of(lamb, net).param_groups);
  Muon muon(net->parameters(),
            MuonOptions(0.1).ns_coefficients({1, 2, 3}).adjust_lr_fn("original"));
  Muon other_muon(net->parameters());
  load_state(other_muon, net, state_of(muon, net));
  EXPECT_EQ(state_of(other_muon, net).param_groups, state_of(muon, net).param_groups);
}

TEST(NamedState, WhatDoesNotFitIsRefusedAndChangesNothing) {
  Net net;
  Adam optimizer(net->parameters());
  make_steps(optimizer, 0, 1);
  const auto good = state_of(optimizer, net);
  const auto expect_refused = [&](const OptimizerState& state, const std::string& reason) {
    expect_refusal([&] { load_state(optimizer, net, state); }, reason);
    EXPECT_EQ(state_of(optimizer, net).param_groups, good.param_groups);
    EXPECT_TRUE(state_of(optimizer, net)
                    .tensors.at("state.weight.exp_avg")
                    .equal(good.tensors.at("state.weight.exp_avg")));
  };
  auto state = good;
  state.tensors["state.weight.exp_avg"] = torch::ones({3});
  expect_refused(state, "'state.weight.exp_avg' is Float of shape [3]; for its parameter it must");
  state.tensors["state.weight.exp_avg"] = torch::ones({4, 6}, torch::kLong);
  expect_refused(state, "'state.weight.exp_avg' is Long of shape [4, 6]");
  state.tensors.erase("state.weight.exp_avg");
  expect_refused(state, "there is no 'state.weight.exp_avg'");
  state = good;
  state.tensors.erase("state.weight.step");
  expect_refused(state, "there is no 'state.weight.step'");
  AdamW decoupled(net->parameters());
  make_steps(decoupled, 0, 1);
  expect_refused(state_of(decoupled, net), "'decoupled_weight_decay' is true");
  SGD sgd(net->parameters());
  expect_refused(state_of(sgd, net), "a group has no 'betas'; is it of another kind of optimizer?");
  state = good;
  state.param_groups.replace(state.param_groups.find("\"fused\":true"), 12, "\"fused\":\"x\"");
  expect_refused(state, "'fused' is '\"x'; expected true or false");
  Muon muon({net->weight, net->second});
  auto coefficients = state_of(muon, net);
  coefficients.param_groups.replace(coefficients.param_groups.find("[3.4445,"), 8, "[");
  expect_refusal([&] { load_state(muon, net, coefficients); },
                 "'ns_coefficients' has 2 values; expected three");
}

// An optimizer of the program's own.
struct CountingOptions : torch::optim::OptimizerCloneableOptions<CountingOptions> {
  TORCH_ARG(double, rate) = 0.5;
};
struct Counting : torch::optim::Optimizer, NamedOptimizer {
  explicit Counting(std::vector<torch::Tensor> parameters)
      : torch::optim::Optimizer(std::move(parameters), std::make_unique<CountingOptions>()) {}
  torch::Tensor step(LossClosure /*closure*/) override {
    for (const auto& parameter : param_groups_[0].params()) {
      auto& state = state_[parameter.unsafeGetTensorImpl()];
      if (state == nullptr) state = new_state();
      ++dynamic_cast<ParameterState&>(*state).step;
    }
    return {};
  }
  void visit_options(torch::optim::OptimizerOptions& options,
                     OptionVisitor& visitor) const override {
    visitor.number("rate", dynamic_cast<CountingOptions&>(options).rate());
  }
  std::unique_ptr<torch::optim::OptimizerParamState> new_state() const override {
    return std::make_unique<ParameterState>();
  }
  void visit_state(torch::optim::OptimizerParamState& state, StateVisitor& visitor) const override {
    visitor.count("calls", dynamic_cast<ParameterState&>(state).step);
  }
};

TEST(NamedState, OptimizersOfTheProgramCanNameTheirs) {
  Net net;
  Counting optimizer(net->parameters());
  optimizer.step(nullptr);
  optimizer.step(nullptr);
  const auto state = state_of(optimizer, net);
  EXPECT_EQ(state.param_groups, R"([{"rate":0.5,"params":["weight","second"]}])");
  EXPECT_TRUE(state.tensors.at("state.weight.calls").equal(torch::tensor(2.0F)));
  Counting other(net->parameters());
  load_state(other, net, state);
  EXPECT_TRUE(state_of(other, net).tensors.at("state.second.calls").equal(torch::tensor(2.0F)));
}

}  // namespace
}  // namespace lockstep::optim
