// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/amp/grad_scaler.h>
#include <lockstep/training/checkpointer.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::testing {
namespace {

using amp::GradScaler;
using amp::GradScalerOptions;
using torch::Tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A parameter with an optimizer, and a loss whose gradient is `slope`.
struct Scaled {
  Tensor weight = torch::zeros({2}).requires_grad_();
  torch::optim::SGD optimizer{std::vector<Tensor>{weight}, 1.0};

  void backward(GradScaler& scaler, float slope) {
    optimizer.zero_grad();
    scaler.scale((weight * slope).sum()).backward();
  }
  [[nodiscard]] float value() const { return weight[0].item<float>(); }
  [[nodiscard]] float gradient() const { return weight.grad()[0].item<float>(); }
};

TEST(GradScalerCalls, ScaleDivideStepAndAdapt) {
  GradScaler scaler(GradScalerOptions().init_scale(4).growth_interval(2));
  Scaled its;
  its.backward(scaler, 3);
  EXPECT_EQ(its.gradient(), 12);
  scaler.unscale_(its.optimizer);
  EXPECT_EQ(its.gradient(), 3);
  EXPECT_TRUE(scaler.step(its.optimizer));
  EXPECT_EQ(its.gradient(), 3);
  EXPECT_EQ(its.value(), -3);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 4);

  its.backward(scaler, 1);
  EXPECT_TRUE(scaler.step(its.optimizer));
  EXPECT_EQ(its.value(), -4);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 8);

  for (const float overflow : {kInf, -kInf, kNan}) {
    its.backward(scaler, overflow);
    EXPECT_FALSE(scaler.step(its.optimizer));
    EXPECT_EQ(its.value(), -4);
    scaler.update();
  }
  EXPECT_EQ(scaler.get_scale(), 1);
}

TEST(GradScalerCalls, TakeSeveralLossesAndOptimizersTogether) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  Scaled first;
  Scaled second;
  const auto losses = scaler.scale({(first.weight * 2).sum(), (second.weight * kInf).sum()});
  for (const auto& loss : losses) loss.backward();
  EXPECT_TRUE(scaler.step(first.optimizer));
  EXPECT_FALSE(scaler.step(second.optimizer));
  scaler.update();
  EXPECT_EQ(first.value(), -2);
  EXPECT_EQ(second.value(), 0);
  EXPECT_EQ(scaler.get_scale(), 2);
}

TEST(GradScalerCalls, TakeGradientsOfSeveralDtypes) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  const auto narrow = torch::zeros({2}, torch::kBFloat16).requires_grad_();
  const auto wide = torch::zeros({2}, torch::kDouble).requires_grad_();
  torch::optim::SGD optimizer(std::vector<Tensor>{narrow, wide}, 1.0);
  const auto backward = [&](float slope) {
    optimizer.zero_grad();
    scaler.scale((narrow * 3).sum().to(torch::kFloat) + (wide * slope).sum()).backward();
  };
  backward(2);
  EXPECT_TRUE(scaler.step(optimizer));
  EXPECT_TRUE(torch::equal(narrow, torch::full({2}, -3.0).to(torch::kBFloat16)));
  EXPECT_TRUE(torch::equal(wide, torch::full({2}, -2.0, torch::kDouble)));
  scaler.update();
  backward(kInf);
  EXPECT_FALSE(scaler.step(optimizer));
}

TEST(GradScalerCalls, TakeSparseGradients) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  torch::nn::Embedding words(torch::nn::EmbeddingOptions(5, 2).sparse(true));
  torch::optim::SGD optimizer(words->parameters(), 1.0);
  {
    const torch::NoGradGuard no_gradients;
    words->weight.zero_();
  }
  const auto indices = torch::tensor({3, 1, 3});
  scaler.scale(words->forward(indices).sum()).backward();
  scaler.unscale_(optimizer);
  ASSERT_TRUE(words->weight.grad().is_sparse());
  EXPECT_EQ(words->weight.grad().to_dense()[3][0].item<float>(), 2);
  EXPECT_TRUE(scaler.step(optimizer));
  EXPECT_EQ(words->weight[3][0].item<float>(), -2);
  scaler.update();
  optimizer.zero_grad();
  scaler.scale(words->forward(indices).sum() * kInf).backward();
  EXPECT_FALSE(scaler.step(optimizer));
}

TEST(GradScalerCalls, DivideATiedParameterOnce) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  Scaled its;
  its.optimizer.add_parameters({its.weight});
  its.backward(scaler, 3);
  scaler.unscale_(its.optimizer);
  EXPECT_EQ(its.gradient(), 3);
}

TEST(GradScalerCalls, DoNothingWhereItIsNotEnabled) {
  GradScaler scaler(GradScalerOptions().enabled(false));
  EXPECT_FALSE(scaler.is_enabled());
  Scaled its;
  its.backward(scaler, kInf);
  scaler.unscale_(its.optimizer);
  EXPECT_TRUE(scaler.step(its.optimizer));
  EXPECT_TRUE(scaler.step(its.optimizer));
  scaler.update();
  scaler.update(3);
  EXPECT_EQ(its.value(), -kInf);
  EXPECT_EQ(scaler.get_scale(), 1);
  EXPECT_TRUE(scaler.state().empty());
  scaler.load_state({});
}

TEST(GradScalerCalls, AreRefusedInAnotherOrder) {
  GradScaler scaler;
  Scaled its;
  its.weight.mutable_grad() = torch::ones({2});
  expect_refusal([&] { scaler.step(its.optimizer); }, "step: no loss has been scaled");
  expect_refusal([&] { scaler.unscale_(its.optimizer); }, "unscale_: no loss has been scaled");
  expect_refusal([&] { scaler.update(); }, "no optimizer has had step()");
  its.backward(scaler, 1);
  scaler.unscale_(its.optimizer);
  expect_refusal([&] { scaler.unscale_(its.optimizer); }, "divided by the scale already");
  expect_refusal([&] { static_cast<void>(scaler.state()); }, "call update() first");
  EXPECT_TRUE(scaler.step(its.optimizer));
  expect_refusal([&] { scaler.unscale_(its.optimizer); }, "has stepped already");
  expect_refusal([&] { scaler.step(its.optimizer); }, "has stepped already");
  scaler.update();
  expect_refusal([&] { scaler.update(); }, "no optimizer has had step()");
  its.optimizer.zero_grad();
  expect_refusal([&] { scaler.step(its.optimizer); }, "no parameter of this optimizer has a");
  EXPECT_EQ(its.value(), -1);
}

TEST(GradScalerCalls, RefuseGradientsInHalfAndChangeNone) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  const auto good = torch::zeros({1}).requires_grad_();
  const auto bad = torch::zeros({1}, torch::kHalf).requires_grad_();
  torch::optim::SGD optimizer(std::vector<Tensor>{good, bad}, 1.0);
  scaler.scale(good.sum() + bad.sum().to(torch::kFloat)).backward();
  expect_refusal([&] { scaler.step(optimizer); }, "is in Half");
  EXPECT_EQ(good.grad().item<float>(), 4);
  // A refused call leaves nothing behind.
  EXPECT_EQ(scaler.state().size(), 5U);
  torch::optim::SGD other(std::vector<Tensor>{good}, 1.0);
  EXPECT_TRUE(scaler.step(other));
  scaler.update();
}

TEST(GradScalerCalls, AStepWithoutGradientsMayBeTriedAgain) {
  GradScaler scaler(GradScalerOptions().init_scale(4));
  const auto weight = torch::zeros({1}).requires_grad_();
  torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
  const auto loss = scaler.scale(weight.sum());
  expect_refusal([&] { scaler.step(optimizer); }, "no parameter of this optimizer has a gradient");
  loss.backward();
  EXPECT_TRUE(scaler.step(optimizer));
  EXPECT_EQ(weight.item<float>(), -1);
}

TEST(GradScalerCalls, RefuseOptionsOutOfRange) {
  const auto refuse = [](const GradScalerOptions& options, const std::string& part) {
    expect_refusal([&] { const GradScaler scaler(options); }, part);
  };
  for (const double scale : {0.0, -1.0, HUGE_VAL, 1e39, 1e-50, std::nan("")}) {
    refuse(GradScalerOptions().init_scale(scale), "it must be positive and finite");
  }
  refuse(GradScalerOptions().growth_factor(1), "growth_factor is 1; it must be above 1");
  refuse(GradScalerOptions().backoff_factor(1), "backoff_factor is 1; it must be between 0 and 1");
  refuse(GradScalerOptions().backoff_factor(0), "backoff_factor is 0");
  refuse(GradScalerOptions().growth_interval(0), "growth_interval is 0; it must be from 1");
  GradScaler scaler;
  expect_refusal([&] { scaler.set_growth_factor(0.5); }, "growth_factor is 0.5");
  expect_refusal([&] { scaler.set_backoff_factor(2); }, "backoff_factor is 2");
  expect_refusal([&] { scaler.set_growth_interval(-1); }, "growth_interval is -1");
  expect_refusal([&] { scaler.update(0); }, "the scale is 0");
  expect_refusal([&] { scaler.update(torch::ones({2})); }, "a tensor of one element");
  expect_refusal([&] { static_cast<void>(scaler.scale(Tensor())); }, "the tensor is undefined");
  scaler.set_growth_factor(3);
  scaler.set_backoff_factor(0.25);
  scaler.set_growth_interval(7);
  EXPECT_EQ(scaler.get_growth_factor(), 3);
  EXPECT_EQ(scaler.get_backoff_factor(), 0.25);
  EXPECT_EQ(scaler.get_growth_interval(), 7);
}

TEST(GradScalerCalls, SetTheScale) {
  GradScaler scaler;
  scaler.update(8);
  EXPECT_EQ(scaler.get_scale(), 8);
  scaler.update(torch::full({1}, 16.0F));
  EXPECT_EQ(scaler.get_scale(), 16);
  EXPECT_EQ(scaler.scale(torch::ones({})).item<float>(), 16);
}

std::map<std::string, Tensor> state_after(int steps) {
  GradScaler scaler(GradScalerOptions().init_scale(64).growth_interval(3).growth_factor(4));
  Scaled its;
  for (int step = 0; step < steps; ++step) {
    its.backward(scaler, step == 4 ? kInf : 1);
    scaler.step(its.optimizer);
    scaler.update();
  }
  return scaler.state();
}

double number_in(const std::map<std::string, Tensor>& state, const std::string& name) {
  return state.at(name).item<double>();
}

TEST(GradScalerState, HasPythonsNamesAndGoesOn) {
  const auto state = state_after(7);  // grew after 3 steps, an overflow at the fifth, 2 since then
  EXPECT_EQ(state.size(), 5U);
  EXPECT_EQ(number_in(state, "scale"), 128);
  EXPECT_EQ(number_in(state, "growth_factor"), 4);
  EXPECT_EQ(number_in(state, "backoff_factor"), 0.5);
  EXPECT_EQ(number_in(state, "growth_interval"), 3);
  EXPECT_EQ(number_in(state, "_growth_tracker"), 2);
  for (const bool has_scaled : {false, true}) {
    GradScaler scaler;
    Scaled its;
    if (has_scaled) its.backward(scaler, 1);
    scaler.load_state(state);
    EXPECT_EQ(scaler.get_scale(), 128);
    its.backward(scaler, 1);
    scaler.step(its.optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 512);
  }
}

TEST(GradScalerState, IsRefusedBeforeAnythingChanges) {
  GradScaler scaler;
  const auto refuse = [&](const std::string& name, const Tensor& value, const std::string& part) {
    auto state = state_after(1);
    state[name] = value;
    expect_refusal([&] { scaler.load_state(state); }, part);
  };
  refuse("scale", torch::zeros({}), "the scale is 0");
  refuse("growth_factor", torch::ones({}), "growth_factor is 1");
  refuse("backoff_factor", torch::ones({}), "backoff_factor is 1");
  refuse("growth_interval", torch::zeros({}, torch::kLong), "growth_interval is 0");
  refuse("_growth_tracker", torch::full({}, -1), "'_growth_tracker' is -1");
  refuse("_growth_tracker", torch::zeros({2}), "has no number '_growth_tracker'");
  refuse("other", torch::ones({}), "'other'");
  for (const std::string name : {"scale", "growth_factor", "_growth_tracker"}) {
    auto state = state_after(1);
    state.erase(name);
    expect_refusal([&] { scaler.load_state(state); }, "has no number '" + name + "'");
  }
  expect_refusal([&] { scaler.load_state({}); }, "the state is empty");
  EXPECT_EQ(scaler.get_scale(), 65536);
  EXPECT_EQ(scaler.get_growth_factor(), 2);
}

TEST(GradScalerState, IsAPartOfACheckpoint) {
  for (const bool is_enabled : {true, false}) {
    const training::TemporaryFolder folder;
    const auto with_checkpointer = [&](GradScaler& scaler, const auto& use) {
      const auto group = init_process_group(
          ProcessGroupOptions().environment(fake_environment(0, 1, unique_job_id())));
      training::TrainingState state;
      state.add("scaler", scaler);
      training::Checkpointer checkpointer(group, folder.path());
      use(checkpointer, state);
      group->close();
    };
    GradScaler scaler(GradScalerOptions().enabled(is_enabled));
    if (is_enabled) scaler.load_state(state_after(7));
    with_checkpointer(scaler, [](auto& checkpointer, auto& state) {
      checkpointer.save(state, 1);
      checkpointer.wait();
    });
    GradScaler other(GradScalerOptions().enabled(is_enabled));
    with_checkpointer(other, [](auto& checkpointer, auto& state) {
      EXPECT_TRUE(checkpointer.load_latest(state).has_value());
    });
    EXPECT_EQ(other.get_scale(), scaler.get_scale());
    EXPECT_EQ(other.get_growth_interval(), scaler.get_growth_interval());
  }
}

}  // namespace
}  // namespace lockstep::testing
