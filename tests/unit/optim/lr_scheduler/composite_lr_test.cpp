// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include "scheduled_groups.h"
#include "support/expected_errors.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using testing::expect_refusal;
using Rates = std::vector<double>;

void expect_close(const Rates& found, const Rates& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 5e-7) << i;
}

// The values are those of PyTorch 2.11.
const Rates kWarmupAndCosine{0.01, 0.028, 0.046, 0.064, 0.082, 0.1, 0.097553, 0.090451};

TEST(SequentialLR, BuildsItsPartsAndRunsThemOneAfterTheOther) {
  torch::nn::Linear net(2, 2);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  SequentialLR schedule(optimizer, {part<LinearLR>(0.1, 1.0, 5), part<CosineAnnealingLR>(10)}, {5});
  EXPECT_EQ(rates_of(optimizer), schedule.get_last_lr());
  expect_close(rates_over(schedule, 7), kWarmupAndCosine);
  EXPECT_EQ(schedule.last_epoch(), 7);
  EXPECT_EQ(schedule.schedulers().size(), 2);
}

TEST(SequentialLR, TakesPartsThatAreThere) {
  const auto over = [](const auto& make) {
    const auto optimizer = sgd({0.1});
    const ScheduledOptimizer scheduled(*optimizer);
    auto warmup = std::make_shared<LinearLR>(scheduled, 0.1, 1.0, 5);
    auto cosine = std::make_shared<CosineAnnealingLR>(scheduled, 10);
    const auto schedule = make(*optimizer, warmup, cosine);
    return rates_over(*schedule, 7);
  };
  using Milestones = std::vector<std::int64_t>;
  expect_close(over([](auto& optimizer, auto warmup, auto cosine) {
                 return std::make_shared<SequentialLR>(
                     optimizer, std::vector<SchedulePart>{warmup, cosine}, Milestones{5});
               }),
               kWarmupAndCosine);
  expect_close(over([](auto& optimizer, auto warmup, auto cosine) {
                 return std::make_shared<SequentialLR>(
                     optimizer, std::vector<SchedulePart>{*warmup, cosine.get()}, Milestones{5});
               }),
               kWarmupAndCosine);
  // One that is there, and one that is built with its base rates.
  expect_close(over([](auto& optimizer, auto warmup, auto) {
                 return std::make_shared<SequentialLR>(
                     optimizer, std::vector<SchedulePart>{warmup, part<CosineAnnealingLR>(10)},
                     Milestones{5});
               }),
               kWarmupAndCosine);
}

TEST(ChainedScheduler, EachPartGoesOnFromTheRateOfTheOneBefore) {
  const Rates expected{0.01, 0.009, 0.0081, 0.00729, 0.06561};
  const auto optimizer = sgd({0.1});
  ChainedScheduler built(*optimizer, {part<ConstantLR>(0.1, 4), part<ExponentialLR>(0.9)});
  expect_close(rates_over(built, 4), expected);

  const auto other = sgd({0.1});
  const ScheduledOptimizer scheduled(*other);
  ConstantLR constant(scheduled, 0.1, 4);
  ExponentialLR exponential(scheduled, 0.9);
  ChainedScheduler there({constant, exponential});
  expect_close(rates_over(there, 4), expected);
  EXPECT_EQ(constant.last_epoch(), 4);

  const auto third = sgd({0.1});
  ChainedScheduler reversed({part<ConstantLR>(0.1, 4), part<ExponentialLR>(0.9)}, *third);
  expect_close(rates_over(reversed, 4), expected);
}

TEST(CompositeLR, ListsInBracesNest) {
  const auto optimizer = sgd({0.5});
  SequentialLR schedule(
      *optimizer,
      {part<SequentialLR>(
           {part<ChainedScheduler>({part<ConstantLR>(0.5, 100)}), part<ExponentialLR>(0.5)}, {2}),
       part<StepLR>(100)},
      {3});
  // scheduler_parity_driver.py has many such nestings; Python's inner parts are a step ahead.
  EXPECT_EQ(rates_over(schedule, 3), (Rates{0.25, 0.5, 0.25, 0.5}));
}

TEST(CompositeLR, BadPartsAreRefused) {
  const auto optimizer = sgd({0.5});
  const auto other = sgd({0.5});
  auto& o = *optimizer;
  const std::vector<SchedulePart> none;
  expect_refusal([&] { SequentialLR(o, none, {}); },
                 "SequentialLR: expects at least one scheduler");
  expect_refusal([&] { ChainedScheduler{none}; },
                 "at least one scheduler to be chained, but got none");
  expect_refusal([&] { ChainedScheduler(std::vector<SchedulePart>{part<StepLR>(1)}); },
                 "expects an optimizer where it is to build its schedulers");
  expect_refusal(
      [&] {
        SequentialLR(o, {part<StepLR>(1), part<StepLR>(1)}, {});
      },
      "expects one scheduler more than milestones, but got 2 schedulers and 0 milestones");
  expect_refusal(
      [&] {
        SequentialLR(o, {part<StepLR>(1), part<StepLR>(1), part<StepLR>(1)}, {3, 2});
      },
      "the milestones are not in rising order");
  expect_refusal([&] { SequentialLR(o, {part<StepLR>(1)}, {}, -2); }, "last_epoch is -2");
  expect_refusal([&] { SequentialLR(o, {part<StepLR>(0)}, {}); }, "StepLR: step_size is 0");
  const auto nested = part<ChainedScheduler>({part<StepLR>(1)});
  expect_refusal(
      [&] {
        SequentialLR(o, {part<StepLR>(1), nested}, {3});
      },
      "the scheduler at index 1 is a SequentialLR or ChainedScheduler, which can only be "
      "the first one");
  StepLR of_other(*other, 1);
  expect_refusal([&] { SequentialLR(o, {of_other}, {}); },
                 "expects all schedulers to belong to the same optimizer, but the one at index 0");
  StepLR first(o, 1);
  StepLR second(o, 1);
  expect_refusal(
      [&] {
        ChainedScheduler({first, second});
      },
      "the scheduler at index 1 has base rates of its own; build all of them from one "
      "ScheduledOptimizer");
  expect_refusal([&] { ChainedScheduler(o, {std::shared_ptr<StepLR>()}); },
                 "the scheduler at index 0 is null");
}

TEST(SequentialLR, APartThatThrowsLeavesItWhereItIs) {
  const auto optimizer = sgd({0.5});
  SequentialLR schedule(*optimizer, {part<ConstantLR>(0.0, 2), part<StepLR>(10)}, {4});
  schedule.step();
  const auto before = schedule.state();
  expect_refusal([&] { schedule.step(); }, "divides 1 by zero");
  EXPECT_EQ(schedule.state(), before);
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
