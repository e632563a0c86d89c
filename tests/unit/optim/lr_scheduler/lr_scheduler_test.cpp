// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "scheduled_groups.h"
#include "support/expected_errors.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using testing::expect_refusal;
using Rates = std::vector<double>;

/// What scheduler_parity_driver.py compares over many steps, here by eye; rounding is not looked
/// at.
void expect_near(const Rates& found, const Rates& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-12) << i;
}

TEST(LRScheduler, ShortConstructorsCompileAndMeanWhatTheySay) {
  torch::nn::Linear net(2, 2);
  const auto over = [&](const auto& make, int steps) {
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    auto schedule = make(optimizer);
    auto rates = rates_over(*schedule, steps);
    EXPECT_EQ(rates_of(optimizer), schedule->get_last_lr());
    return rates;
  };
  using Optimizer = torch::optim::SGD;
  expect_near(over([](Optimizer& o) { return std::make_unique<StepLR>(o, 2); }, 4),
              {0.1, 0.1, 0.01, 0.01, 0.001});
  expect_near(over(
                  [](Optimizer& o) {
                    return std::make_unique<MultiStepLR>(o, std::vector<std::int64_t>{2, 1, 2});
                  },
                  3),
              {0.1, 0.01, 0.0001, 0.0001});
  expect_near(over([](Optimizer& o) { return std::make_unique<ConstantLR>(o, 0.5, 2); }, 3),
              {0.05, 0.05, 0.1, 0.1});
  expect_near(over([](Optimizer& o) { return std::make_unique<LinearLR>(o, 0.5, 1.0, 2); }, 3),
              {0.05, 0.075, 0.1, 0.1});
  expect_near(over([](Optimizer& o) { return std::make_unique<ExponentialLR>(o, 0.5); }, 2),
              {0.1, 0.05, 0.025});
  expect_near(over([](Optimizer& o) { return std::make_unique<PolynomialLR>(o, 4); }, 5),
              {0.1, 0.075, 0.05, 0.025, 0, 0});
  expect_near(over([](Optimizer& o) { return std::make_unique<CosineAnnealingLR>(o, 2); }, 4),
              {0.1, 0.05, 0, 0.05, 0.1});
  expect_near(
      over([](Optimizer& o) { return std::make_unique<CosineAnnealingWarmRestarts>(o, 2); }, 4),
      {0.1, 0.05, 0.1, 0.05, 0.1});
  expect_near(over(
                  [](Optimizer& o) {
                    return std::make_unique<LambdaLR>(
                        o, [](std::int64_t t) { return 1.0 / double(t + 1); });
                  },
                  2),
              {0.1, 0.05, 0.1 / 3});
  expect_near(over(
                  [](Optimizer& o) {
                    return std::make_unique<MultiplicativeLR>(o, [](std::int64_t) { return 0.5; });
                  },
                  2),
              {0.1, 0.05, 0.025});
  expect_near(over([](Optimizer& o) { return std::make_unique<SWALR>(o, 0.2, 2, "linear"); }, 3),
              {0.1, 0.15, 0.2, 0.2});
}

TEST(LRScheduler, AProgramsOwnRateIsTheOneThatStepsGoOnFrom) {
  const auto optimizer = sgd({0.1});
  ExponentialLR schedule(*optimizer, 0.5);
  schedule.step();
  optimizer->param_groups()[0].options().set_lr(8);
  schedule.step();
  EXPECT_EQ(schedule.get_last_lr(), Rates{4});
}

TEST(LRScheduler, EachGroupHasItsOwnRate) {
  const auto optimizer = sgd({0.5, 0.25});
  LambdaLR schedule(*optimizer, {[](std::int64_t t) { return std::pow(0.5, double(t)); },
                                 [](std::int64_t t) { return t > 0 ? 2.0 : 1.0; }});
  schedule.step();
  EXPECT_EQ(rates_of(*optimizer), (Rates{0.25, 0.5}));
  EXPECT_EQ(schedule.base_lrs(), (Rates{0.5, 0.25}));
  EXPECT_EQ(schedule.last_epoch(), 1);
}

TEST(LRScheduler, ASecondScheduleOfAScheduledOptimizerHasTheSameBaseRates) {
  const auto optimizer = sgd({0.5});
  const ScheduledOptimizer scheduled(*optimizer);
  ConstantLR warmup(scheduled, 0.5);
  EXPECT_EQ(rates_of(*optimizer), Rates{0.25});
  CosineAnnealingLR cosine(scheduled, 10);
  EXPECT_EQ(cosine.base_lrs(), Rates{0.5});
  // Nothing is shared without it.
  CosineAnnealingLR alone(*optimizer, 10);
  EXPECT_EQ(alone.base_lrs(), Rates{0.25});
  // What the first one has can be given on.
  CosineAnnealingLR third(warmup.scheduled_optimizer(), 10);
  EXPECT_EQ(third.base_lrs(), Rates{0.5});
}

TEST(LRScheduler, BeginsBehindALastEpochWhenTheBaseRatesAreGiven) {
  const auto optimizer = sgd({0.25});
  StepLR schedule(ScheduledOptimizer(*optimizer, {0.5}), 4, 0.5, /*last_epoch=*/6);
  EXPECT_EQ(schedule.last_epoch(), 7);
  EXPECT_EQ(rates_over(schedule, 2), (Rates{0.25, 0.125, 0.125}));
  EXPECT_EQ(schedule.base_lrs(), Rates{0.5});
  expect_refusal([&] { StepLR(*optimizer, 4, 0.5, 6); }, "the base rate of group 0 is not known");
  expect_refusal([&] { StepLR(*optimizer, 4, 0.5, -2); },
                 "last_epoch is -2; it must be -1 or more");
  expect_refusal(
      [&] {
        ScheduledOptimizer(*optimizer, {0.5, 0.5});
      },
      "initial_lr has 2 values; the optimizer has 1 groups");
}

TEST(LRScheduler, GroupsThatAreAddedLaterNeedAScheduleOfTheirOwn) {
  const auto optimizer = sgd({0.5});
  CosineAnnealingLR cosine(*optimizer, 10);
  CosineAnnealingWarmRestarts restarts(*optimizer, 10);
  StepLR steps(*optimizer, 2);
  optimizer->add_param_group(torch::optim::OptimizerParamGroup({torch::zeros({1})}));
  const auto before = rates_of(*optimizer);
  expect_refusal(
      [&] { restarts.step(); },
      "made for 1 parameter groups, and the optimizer has 2 now; make the schedule after "
      "add_param_group");
  EXPECT_EQ(rates_of(*optimizer), before);
  EXPECT_EQ(restarts.last_epoch(), 0);
  steps.step();  // as in Python, what needs no base rates goes on
  EXPECT_EQ(steps.get_last_lr().size(), 2);
  cosine.step();
}

TEST(LRScheduler, AFunctionThatThrowsLeavesTheScheduleWhereItIs) {
  const auto optimizer = sgd({0.5});
  bool is_broken = false;
  LambdaLR schedule(*optimizer, [&](std::int64_t t) {
    if (is_broken) throw std::runtime_error("no factor");
    return t == 0 ? 1.0 : 0.5;
  });
  is_broken = true;
  const auto before = schedule.state();
  EXPECT_THROW(schedule.step(), std::runtime_error);
  EXPECT_EQ(schedule.state(), before);
  is_broken = false;
  schedule.step();
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.25});
}

TEST(LRScheduler, BadArgumentsAreRefused) {
  const auto optimizer = sgd({0.5, 0.5});
  auto& o = *optimizer;
  expect_refusal([&] { StepLR(o, 0); }, "StepLR: step_size is 0");
  expect_refusal([&] { ConstantLR(o, 1.5); }, "ConstantLR: factor is 1.5; the constant");
  expect_refusal([&] { ConstantLR(o, -0.5); }, "ConstantLR: factor is -0.5");
  expect_refusal([&] { LinearLR(o, 0.0); },
                 "LinearLR: start_factor is 0; it is expected to be greater");
  expect_refusal([&] { LinearLR(o, 1.5); }, "LinearLR: start_factor is 1.5");
  expect_refusal([&] { LinearLR(o, 0.5, -1); },
                 "LinearLR: end_factor is -1; it is expected to be bet");
  expect_refusal([&] { CosineAnnealingLR(o, 0); }, "CosineAnnealingLR: T_max is 0");
  expect_refusal([&] { CosineAnnealingLR(o, (std::int64_t{1} << 53) + 1); },
                 "T_max is 9007199254740993; it must be from -2^53 to 2^53");
  expect_refusal([&] { CosineAnnealingWarmRestarts(o, 0); },
                 "expected positive integer T_0, but got 0");
  expect_refusal([&] { CosineAnnealingWarmRestarts(o, 1, 0); },
                 "expected integer T_mult >= 1, but got 0");
  expect_refusal([&] { SWALR(o, 0.1, -1); },
                 "anneal_epochs must be equal or greater than 0, got -1");
  expect_refusal([&] { SWALR(o, 0.1, 1, "cosine"); },
                 "one of 'cos' or 'linear', instead got 'cosine'");
  expect_refusal([&] { SWALR(o, {0.1}); },
                 "SWALR: swa_lr must have the same length as the parameter "
                 "groups: it has 1 values, and the optimizer has 2 groups");
  expect_refusal([&] { LambdaLR(o, LRLambda()); }, "LambdaLR: lr_lambda is an empty function");
  const std::vector<LRLambda> one{[](std::int64_t) { return 1.0; }};
  expect_refusal([&] { LambdaLR(o, one); }, "LambdaLR: expected 2 lr_lambdas, but got 1");
  expect_refusal([&] { MultiplicativeLR(o, one); },
                 "MultiplicativeLR: expected 2 lr_lambdas, but got 1");
}

TEST(LRScheduler, AStepWithoutAValueIsAnError) {
  const auto optimizer = sgd({0.5});
  ConstantLR constant(*optimizer, 0.0, 2);
  constant.step();
  expect_refusal([&] { constant.step(); }, "ConstantLR with a factor of 0 divides 1 by zero");
  EXPECT_EQ(constant.last_epoch(), 1);
  EXPECT_EQ(constant.get_last_lr(), Rates{0});
  PolynomialLR inverse(*optimizer, 1, -1.0);
  expect_refusal([&] { inverse.step(); }, "PolynomialLR raises 0 to the power -1");
}

TEST(CosineAnnealingWarmRestarts, GoesToAnyEpoch) {
  const auto optimizer = sgd({0.5});
  CosineAnnealingWarmRestarts schedule(*optimizer, 4, 2);
  schedule.step(2.0);  // the middle of the first cycle
  EXPECT_NEAR(schedule.get_last_lr()[0], 0.25, 1e-15);
  schedule.step(8.0);  // that of the second, from 4 to 12
  EXPECT_NEAR(schedule.get_last_lr()[0], 0.25, 1e-15);
  schedule.step(4.5);
  EXPECT_NEAR(schedule.get_last_lr()[0], 0.25 * (1 + std::cos(M_PI / 16)), 1e-15);
  EXPECT_EQ(schedule.last_epoch(), 4);
  expect_refusal([&] { schedule.step(-1.0); },
                 "expected non-negative epoch up to 2^53, but got -1");
  expect_refusal([&] { schedule.step(std::nan("")); }, "but got nan");
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  CosineAnnealingWarmRestarts huge(*optimizer, 2, kMost);
  huge.step();
  expect_refusal([&] { huge.step(); }, "the next cycle would have more than 2^53 epochs");
  EXPECT_EQ(huge.last_epoch(), 1);
  expect_refusal([&] { huge.step(static_cast<double>(kMost)); }, "choose a smaller T_mult");
}

/// The numbers of steps as such, for a schedule of a program's own.
class CountingLR final : public EpochLR {
 public:
  explicit CountingLR(const ScheduledOptimizer& optimizer) : EpochLR("CountingLR", optimizer, -1) {
    initial_step();
  }

 private:
  Rates get_lr() override { return Rates(base_lrs().size(), double(last_epoch())); }
};

TEST(LRScheduler, AProgramMayDeriveItsOwn) {
  const auto optimizer = sgd({0.5});
  CountingLR schedule(*optimizer);
  EXPECT_EQ(rates_over(schedule, 2), (Rates{0, 1, 2}));
  const auto state = schedule.state();
  CountingLR other(*optimizer);
  other.load_state(state);
  EXPECT_EQ(other.get_last_lr(), Rates{2});
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
