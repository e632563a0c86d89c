// SPDX-License-Identifier: BSD-3-Clause
// What all of lockstep::optim's optimizers have in common. optim_python_parity_test.cpp compares
// their results with Python's.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <limits>
#include <map>

#include "optimizer_kinds.h"

namespace lockstep::optim {
namespace {

using namespace testing;

class EachOptimizer : public ::testing::TestWithParam<OptimizerForTest> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EachOptimizer, ::testing::ValuesIn(optimizers_for_test()),
                         [](const auto& test) { return test.param.name; });

/// Elements that lie in another order are summed in another; Muon sums in bfloat16.
bool is_close(const OptimizerForTest& kind, const torch::Tensor& a, const torch::Tensor& b) {
  return kind.name == "Muon" ? torch::allclose(a, b, 0.05, 0.002)
                             : torch::allclose(a, b, 1e-5, 1e-6);
}

/// What two parameters become, each with an optimizer of its own.
std::vector<torch::Tensor> alone(const OptimizerForTest& kind,
                                 const std::vector<torch::Tensor>& starts, int steps) {
  std::vector<torch::Tensor> results;
  for (const auto& start : starts) {
    results.push_back(parameter_of(start));
    make_steps(*kind.make({results.back()}), 0, steps);
  }
  return results;
}

TEST_P(EachOptimizer, FollowsTheMemoryOfParametersAndGradients) {
  const auto start = values({8, 9}, 0);
  const auto expected = alone(GetParam(), {start}, 3)[0];
  EXPECT_FALSE(expected.equal(start));
  // A parameter that lies by columns, and one with gaps between its rows.
  const auto by_columns = start.t().contiguous().t();
  const auto around = torch::zeros({8, 20});
  const auto with_gaps = around.slice(1, 3, 12).copy_(start);
  for (const auto& value : {by_columns, with_gaps}) {
    const auto parameter = value.detach().requires_grad_();
    const auto optimizer = GetParam().make({parameter});
    for (int step = 0; step < 3; ++step) {
      parameter.mutable_grad() = values({8, 9}, 1.3 * step + 0.2);
      if (step == 1) parameter.mutable_grad() = parameter.grad().t().contiguous().t();
      optimizer->step();
    }
    EXPECT_TRUE(is_close(GetParam(), parameter, expected)) << value.strides();
    EXPECT_EQ(parameter.strides(), value.strides());
  }
  EXPECT_TRUE(around.slice(1, 0, 3).eq(0).all().item<bool>());
  EXPECT_TRUE(around.slice(1, 12, 20).eq(0).all().item<bool>());
}

TEST_P(EachOptimizer, GradientsThatRepeatElementsAreTaken) {
  const auto expanded = parameter_of(values({4, 6}, 0));
  const auto plain = parameter_of(values({4, 6}, 0));
  expanded.mutable_grad() = values({4, 1}, 1).expand({4, 6});
  plain.mutable_grad() = values({4, 1}, 1).expand({4, 6}).contiguous();
  GetParam().make({expanded})->step();
  GetParam().make({plain})->step();
  EXPECT_TRUE(expanded.equal(plain));
}

TEST_P(EachOptimizer, LeavesGradientsAloneAndLetsThemGo) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto optimizer = GetParam().make({parameter});
  make_steps(*optimizer, 0, 2);
  EXPECT_TRUE(parameter.grad().equal(values({4, 6}, 1.5)));
  EXPECT_EQ(parameter.grad().use_count(), 1);
}

TEST_P(EachOptimizer, PassesOverParametersWithoutGradient) {
  const auto used = parameter_of(values({4, 6}, 0));
  const auto unused = parameter_of(values({5, 5}, 0));
  const auto optimizer = GetParam().make({unused, used});
  set_gradient(used, 0);
  optimizer->step();
  EXPECT_TRUE(unused.equal(values({5, 5}, 0)));
  EXPECT_EQ(optimizer->state().count(unused.unsafeGetTensorImpl()), 0U);
  EXPECT_FALSE(used.equal(values({4, 6}, 0)));
}

TEST_P(EachOptimizer, ParametersBeginAndPauseEachForItself) {
  if (GetParam().name == "LAMB") GTEST_SKIP() << "it clips all gradients together";
  const auto early = parameter_of(values({4, 6}, 0));
  const auto late = parameter_of(values({5, 5}, 0));
  const auto optimizer = GetParam().make({early, late});
  for (int step = 0; step < 6; ++step) {
    early.mutable_grad() = torch::Tensor();
    if (step != 3) set_gradient(early, step < 3 ? step : step - 1);
    if (step >= 2) set_gradient(late, step - 2);
    optimizer->step();
  }
  const auto expected = alone(GetParam(), {values({4, 6}, 0)}, 5)[0];
  EXPECT_TRUE(early.equal(expected));
  const auto expected_late = alone(GetParam(), {values({5, 5}, 0)}, 4)[0];
  EXPECT_TRUE(late.equal(expected_late));
}

TEST_P(EachOptimizer, GroupsAndParametersMayBeAddedAtAnyTime) {
  if (GetParam().name == "LAMB") GTEST_SKIP() << "it clips all gradients together";
  const std::vector<torch::Tensor> starts{values({4, 6}, 0), values({5, 5}, 1), values({3, 2}, 2)};
  std::vector<torch::Tensor> all;
  for (const auto& start : starts) all.push_back(parameter_of(start));
  const auto optimizer = GetParam().make({all[0]});
  make_steps(*optimizer, 0, 1);
  // Each of them makes the same two steps as it would alone.
  optimizer->add_param_group(torch::optim::OptimizerParamGroup({all[1]}));
  optimizer->param_groups()[0].params().push_back(all[2]);
  optimizer->param_groups()[0].params().erase(optimizer->param_groups()[0].params().begin());
  make_steps(*optimizer, 0, 2);
  EXPECT_TRUE(all[0].equal(alone(GetParam(), {starts[0]}, 1)[0]));
  EXPECT_TRUE(all[1].equal(alone(GetParam(), {starts[1]}, 2)[0]));
  EXPECT_TRUE(all[2].equal(alone(GetParam(), {starts[2]}, 2)[0]));
}

TEST_P(EachOptimizer, AParameterThatIsTwiceInAGroupIsUpdatedOnce) {
  const auto shared = parameter_of(values({4, 6}, 0));
  make_steps(*GetParam().make({shared, shared}), 0, 3);
  EXPECT_TRUE(shared.equal(alone(GetParam(), {values({4, 6}, 0)}, 3)[0]));
}

TEST_P(EachOptimizer, MemoryOfParametersMayChange) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto optimizer = GetParam().make({parameter});
  make_steps(*optimizer, 0, 1);
  const auto before = parameter.detach();
  const auto kept = before.clone();
  parameter.set_data(before.clone());
  make_steps(*optimizer, 1, 3);
  EXPECT_TRUE(before.equal(kept));
  EXPECT_TRUE(parameter.equal(alone(GetParam(), {values({4, 6}, 0)}, 3)[0]));
  // By columns: the state has to follow.
  parameter.set_data(parameter.detach().t().contiguous().t());
  make_steps(*optimizer, 3, 5);
  EXPECT_TRUE(is_close(GetParam(), parameter, alone(GetParam(), {values({4, 6}, 0)}, 5)[0]));
}

TEST_P(EachOptimizer, SeveralTypesAtOnce) {
  if (GetParam().name == "LAMB") GTEST_SKIP() << "it clips all gradients together";
  std::vector<torch::Tensor> all;
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
    all.push_back(parameter_of(values({4, 6}, 0).to(type)));
  }
  make_steps(*GetParam().make(all), 0, 3);
  for (const auto& parameter : all) {
    const auto own = alone(GetParam(), {values({4, 6}, 0).to(parameter.scalar_type())}, 3)[0];
    EXPECT_TRUE(parameter.equal(own)) << parameter.scalar_type();
    EXPECT_TRUE(torch::allclose(parameter.to(torch::kFloat), all[0], 0.02, 0.02));
  }
}

TEST_P(EachOptimizer, ModelsMayBeConvertedBetweenSteps) {
  torch::nn::Linear net(torch::nn::LinearOptions(6, 4).bias(false));
  const auto optimizer = GetParam().make(net->parameters());
  make_steps(*optimizer, 0, 2);
  const auto before = net->weight.detach().clone();
  for (const auto type : {torch::kDouble, torch::kBFloat16, torch::kFloat}) {
    net->to(type);
    net->zero_grad();
    make_steps(*optimizer, 2, 3);
    EXPECT_EQ(net->weight.scalar_type(), type);
  }
  EXPECT_FALSE(net->weight.equal(before));
  EXPECT_TRUE(torch::isfinite(net->weight).all().item<bool>());
}

TEST_P(EachOptimizer, ManyThreadsGiveTheSameBits) {
  const std::vector<std::int64_t> shape{600, GetParam().name == "Muon" ? 50 : 700};
  const auto one = parameter_of(values(shape, 0));
  const auto three = parameter_of(values(shape, 0));
  make_steps(*GetParam().make({one}), 0, 2);
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  make_steps(*GetParam().make({three}), 0, 2);
  at::set_num_threads(threads);
  if (GetParam().name == "LAMB" || GetParam().name == "LARS" || GetParam().name == "Muon") {
    EXPECT_TRUE(torch::allclose(one, three, 1e-3, 1e-5));  // norms are summed in another order
  } else {
    EXPECT_TRUE(one.equal(three));
  }
}

TEST_P(EachOptimizer, NoticesThatItsStateWasTakenAway) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto optimizer = GetParam().make({parameter});
  make_steps(*optimizer, 0, 2);
  optimizer->state().clear();
  {
    const torch::NoGradGuard without_gradients;
    parameter.copy_(values({4, 6}, 0));
  }
  make_steps(*optimizer, 0, 3);
  EXPECT_TRUE(parameter.equal(alone(GetParam(), {values({4, 6}, 0)}, 3)[0]));
}

TEST_P(EachOptimizer, EmptyParametersAndNoParametersAreFine) {
  const auto optimizer = GetParam().make({torch::zeros({0, 3}).requires_grad_()});
  if (GetParam().name == "Muon") GTEST_SKIP() << "a product of empty matrices";
  make_steps(*optimizer, 0, 2);
  GetParam().make({torch::zeros({2, 2}).requires_grad_()})->step();
}

TEST_P(EachOptimizer, ZerosDoNotBecomeNaN) {
  const auto zero = parameter_of(torch::zeros({3, 4}));
  const auto optimizer = GetParam().make({zero});
  zero.mutable_grad() = torch::zeros({3, 4});
  optimizer->step();
  zero.mutable_grad() = values({3, 4}, 0);
  optimizer->step();
  EXPECT_TRUE(torch::isfinite(zero).all().item<bool>());
}

TEST_P(EachOptimizer, ClosuresComputeGradientsUnderAnyGuard) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto optimizer = GetParam().make({parameter});
  const torch::NoGradGuard without_gradients;
  int calls = 0;
  const auto loss = optimizer->step([&] {
    ++calls;
    optimizer->zero_grad();
    auto result = parameter.square().sum();
    result.backward();
    return result;
  });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(loss.item<float>(), values({4, 6}, 0).square().sum().item<float>());
  EXPECT_FALSE(parameter.equal(values({4, 6}, 0)));
  EXPECT_FALSE(optimizer->step().defined());
}

TEST_P(EachOptimizer, WorksWithLibTorchsSchedules) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto optimizer = GetParam().make({parameter});
  torch::optim::StepLR schedule(*optimizer, 1, 0.0);
  make_steps(*optimizer, 0, 1);
  schedule.step();
  schedule.step();
  EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), 0.0);
  const auto before = parameter.detach().clone();
  make_steps(*optimizer, 1, 2);
  EXPECT_TRUE(parameter.equal(before));
}

TEST(OptimizerTest, MovesAsAWhole) {
  const auto parameter = parameter_of(values({4, 6}, 0));
  const auto alone = parameter_of(values({4, 6}, 0));
  AdamW first({parameter});
  make_steps(first, 0, 1);
  AdamW second(std::move(first));
  make_steps(second, 1, 3);
  AdamW expected({alone});
  make_steps(expected, 0, 3);
  EXPECT_TRUE(parameter.equal(alone));
}

class ShorterTypes : public ::testing::Test {
 protected:
  torch::Tensor parameter = parameter_of(torch::ones({2, 3}).to(torch::kBFloat16));
  SGD optimizer{{parameter}, SGDOptions(1e-4)};

  void step() {
    parameter.mutable_grad() = torch::ones({2, 3}).to(torch::kBFloat16);
    optimizer.step();
  }
};

TEST_F(ShorterTypes, SmallStepsAddUp) {
  // Each is too small to change a bfloat16 of 1.
  for (int i = 0; i < 100; ++i) step();
  EXPECT_TRUE(torch::allclose(optimizer.state_tensor(parameter, "master"),
                              torch::full({2, 3}, 1 - 100e-4), 1e-5, 1e-6));
  EXPECT_TRUE(parameter.equal(torch::full({2, 3}, 1 - 100e-4).to(torch::kBFloat16)));
}

TEST_F(ShorterTypes, CopiesFollowWhatTheProgramWrites) {
  for (int i = 0; i < 3; ++i) step();
  {
    const torch::NoGradGuard without_gradients;
    parameter[0].fill_(5);
  }
  step();
  const auto master = optimizer.state_tensor(parameter, "master");
  EXPECT_TRUE(torch::allclose(master[0], torch::full({3}, 5 - 1e-4)));
  EXPECT_TRUE(torch::allclose(master[1], torch::full({3}, 1 - 4e-4)));
}

TEST_F(ShorterTypes, CopiesFollowMemoryThatIsReplaced) {
  for (int i = 0; i < 3; ++i) step();
  parameter.set_data(torch::full({2, 3}, 5).to(torch::kBFloat16));  // as Module::to does
  step();
  EXPECT_TRUE(
      torch::allclose(optimizer.state_tensor(parameter, "master"), torch::full({2, 3}, 5 - 1e-4)));
}

TEST_F(ShorterTypes, NoCopyIsLeftOfATypeBefore) {
  step();
  parameter.set_data(parameter.to(torch::kFloat));
  parameter.mutable_grad() = torch::ones({2, 3});
  optimizer.step();
  EXPECT_FALSE(optimizer.state_tensor(parameter, "master").defined());
}

// Autocast chooses for forward, and not for an update.
TEST(MuonStep, IsNotConvertedByAutocast) {
  const auto after_a_step = [](bool is_on) {
    torch::manual_seed(1);
    const auto parameter = parameter_of(torch::rand({8, 4}));
    Muon optimizer({parameter}, MuonOptions(0.1).ns_dtype(torch::kFloat));
    parameter.mutable_grad() = torch::rand({8, 4});
    const amp::autocast guard(torch::kCPU, torch::kBFloat16, is_on);
    optimizer.step();
    return parameter.detach().clone();
  };
  EXPECT_TRUE(after_a_step(true).equal(after_a_step(false)));
}

TEST(DecayGroupsTest, DivideByDimensions) {
  struct Tied : torch::nn::Module {
    Tied() {
      first = register_module("first", torch::nn::Linear(3, 3));
      norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({3})));
      second = register_module("second", torch::nn::Linear(3, 3));
      second->weight = second->register_parameter("tied", first->weight);
    }
    torch::nn::Linear first{nullptr}, second{nullptr};
    torch::nn::LayerNorm norm{nullptr};
  } net;
  const auto groups = no_decay_groups(net, 0.25);
  EXPECT_EQ(groups.decayed.size(), 2U);  // the tied one once
  EXPECT_EQ(groups.not_decayed.size(), 4U);
  AdamW optimizer(groups, AdamWOptions(0.5));
  ASSERT_EQ(optimizer.param_groups().size(), 2U);
  const auto& decayed = dynamic_cast<AdamWOptions&>(optimizer.param_groups()[0].options());
  const auto& others = dynamic_cast<AdamWOptions&>(optimizer.param_groups()[1].options());
  EXPECT_EQ(decayed.weight_decay(), 0.25);
  EXPECT_EQ(others.weight_decay(), 0);
  EXPECT_EQ(decayed.lr(), 0.5);
  EXPECT_EQ(others.lr(), 0.5);
  make_steps(optimizer, 0, 1);
  // For LibTorch's too; a group without parameters is left out.
  torch::nn::Linear no_bias(torch::nn::LinearOptions(2, 2).bias(false));
  const auto own = no_decay_groups(no_bias, 0.1).with(torch::optim::AdamWOptions(0.5));
  EXPECT_EQ(own.size(), 1U);
}

}  // namespace
}  // namespace lockstep::optim
