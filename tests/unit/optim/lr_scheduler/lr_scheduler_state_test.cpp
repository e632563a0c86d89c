// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/checkpointer.h>

#include "scheduled_groups.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using testing::expect_no_errors;
using testing::expect_refusal;
using testing::run_ranks;
using Rates = std::vector<double>;

TEST(ScheduleState, HasPythonsKeys) {
  const auto optimizer = sgd({0.5});
  StepLR schedule(*optimizer, 2);
  schedule.step();
  EXPECT_EQ(
      schedule.state(),
      R"({"_class":"StepLR","base_lrs":[0.5],"last_epoch":1,"_step_count":2,)"
      R"("_is_initial":false,"_get_lr_called_within_step":false,"_last_lr":[0.5],)"
      R"("step_size":2,"gamma":0.1,"param_groups":[{"initial_lr":0.5,"max_lr":null,)"
      R"("min_lr":null,"max_momentum":null,"base_momentum":null,"swa_lr":null,"momentum":null}]})");
}

TEST(ScheduleState, LoadingSetsTheRatesOfTheOptimizer) {
  const auto first = sgd({0.5, 0.25});
  ExponentialLR saved(*first, 0.5);
  saved.step();
  const auto second = sgd({8, 8});
  ExponentialLR loaded(*second, 0.75);
  loaded.load_state(saved.state());
  EXPECT_EQ(rates_of(*second), (Rates{0.25, 0.125}));
  EXPECT_EQ(loaded.get_last_lr(), (Rates{0.25, 0.125}));
  EXPECT_EQ(loaded.base_lrs(), (Rates{0.5, 0.25}));
  EXPECT_EQ(loaded.state(), saved.state());
  loaded.step();
  EXPECT_EQ(rates_of(*second), (Rates{0.125, 0.0625}));
}

TEST(ScheduleState, LoadingSetsMomentumThatIsCycled) {
  const auto first = sgd({0.5});
  OneCycleLR saved(*first, OneCycleLROptions(0.5).total_steps(10).three_phase(true));
  saved.step();
  const auto second = sgd({8});
  OneCycleLR loaded(*second, 0.125, 99);
  loaded.load_state(saved.state());
  const auto momentum = [](const auto& optimizer) {
    return static_cast<const torch::optim::SGDOptions&>(optimizer->param_groups()[0].options())
        .momentum();
  };
  EXPECT_EQ(momentum(second), momentum(first));
  for (int i = 0; i < 9; ++i) {
    saved.step();
    loaded.step();
    EXPECT_EQ(rates_of(*first), rates_of(*second)) << i;
    EXPECT_EQ(momentum(second), momentum(first)) << i;
  }
}

TEST(ScheduleState, PartsAreInIt) {
  const auto make = [](torch::optim::Optimizer& optimizer) {
    return std::make_unique<SequentialLR>(
        optimizer,
        std::vector<SchedulePart>{
            part<ChainedScheduler>({part<LinearLR>(0.5, 1.0, 4), part<StepLR>(2)}),
            part<CosineAnnealingLR>(10)},
        std::vector<std::int64_t>{5});
  };
  for (int steps = 0; steps < 9; ++steps) {
    const auto first = sgd({0.5});
    const auto saved = make(*first);
    for (int i = 0; i < steps; ++i) saved->step();
    const auto second = sgd({8});
    const auto loaded = make(*second);
    loaded->load_state(saved->state());
    EXPECT_EQ(loaded->state(), saved->state());
    EXPECT_EQ(rates_over(*loaded, 9), rates_over(*saved, 9)) << steps;
  }
}

TEST(ScheduleState, DeeplyNestedOnesComeBack) {
  const auto nested = [](torch::optim::Optimizer& optimizer) {
    auto inner = part<ExponentialLR>(0.5);
    for (int i = 0; i < 100; ++i) {
      inner = part<ChainedScheduler>(std::vector<SchedulePart>{inner});
    }
    return std::make_unique<ChainedScheduler>(optimizer, std::vector<SchedulePart>{inner});
  };
  const auto first = sgd({0.5});
  const auto second = sgd({0.5});
  const auto saved = nested(*first);
  saved->step();
  const auto loaded = nested(*second);
  loaded->load_state(saved->state());
  EXPECT_EQ(rates_of(*second), Rates{0.25});
}

TEST(ScheduleState, NothingChangesBeforeItIsLoaded) {
  const auto first = sgd({0.5});
  ExponentialLR saved(*first, 0.5);
  saved.step();
  const auto second = sgd({0.5});
  ExponentialLR loaded(*second, 0.5);
  const auto before = loaded.state();
  const auto load = loaded.prepare_state(saved.state());
  EXPECT_EQ(loaded.state(), before);
  EXPECT_EQ(rates_of(*second), Rates{0.5});
  load();
  EXPECT_EQ(loaded.state(), saved.state());
  load();  // it has been loaded, and stays
  EXPECT_EQ(loaded.state(), saved.state());
}

/// `text` with one part replaced by another.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from << " in " << text;
  return text.replace(at, from.size(), to);
}

TEST(ScheduleState, WhatDoesNotFitIsRefusedAndChangesNothing) {
  const auto optimizer = sgd({0.5});
  LinearLR schedule(*optimizer, 0.5);
  const auto good = schedule.state();
  const auto refuses = [&](const std::string& state, const std::string& text) {
    expect_refusal([&] { schedule.load_state(state); }, text);
    EXPECT_EQ(schedule.state(), good);
  };
  refuses("", "the state of a LinearLR: expected JSON");
  refuses("[]", "expected an object with values and arrays of values, found the outermost value");
  refuses("5", "expected an object with values and arrays of values");
  refuses("{", "expected JSON");
  refuses(good + good, "expected JSON");
  refuses(replaced(good, "[0.5]", "[[0.5]]"),
          "expected an object with values and arrays of values");
  refuses(replaced(good, "LinearLR", "ConstantLR"),
          R"('_class' is '"ConstantLR"'; this program's schedule has "LinearLR")");
  refuses(replaced(good, "\"end_factor\":1.0,", ""),
          "has no 'end_factor'; is it of another class?");
  refuses(replaced(good, "\"end_factor\":1.0", "\"end_factor\":true"),
          "'end_factor' is 'true', which is no number");
  refuses(replaced(good, "\"end_factor\":1.0", "\"end_factor\":[1.0]"), "expected one value");
  refuses(replaced(good, "\"total_iters\":5", "\"total_iters\":5.5"), "which is no whole number");
  refuses(replaced(good, "\"total_iters\":5", "\"total_iters\":36893488147419103232"),
          "which is no whole number");
  refuses(replaced(good, "\"start_factor\":0.5", "\"start_factor\":0.0"),
          "start_factor is 0; it is expected to be greater than 0");
  refuses(replaced(good, "\"base_lrs\":[0.5]", "\"base_lrs\":[0.5,0.5]"),
          "'base_lrs' has 2 values; this program's schedule has 1");
  refuses(replaced(good, "\"base_lrs\":[0.5]", "\"base_lrs\":0.5"),
          "'base_lrs' is no array of values");
  refuses(replaced(good, "\"base_lrs\":[0.5]", "\"base_lrs\":[{}]"),
          "'base_lrs' is no array of values");
  refuses(replaced(good, "[{\"initial_lr\"", "[{},{\"initial_lr\""),
          "'param_groups' has 2 elements; this program's schedule has 1");
  refuses(replaced(good, "[{\"initial_lr\"", "[7,{\"initial_lr\""), "no array of objects");
  refuses(std::string(300, '['), "expected");
  refuses(replaced(good, "5", std::string("5\0", 2)), "a zero byte");
}

TEST(ScheduleState, WhatDoesNotFitOtherClassesIsRefused) {
  const auto optimizer = sgd({0.5});
  MultiStepLR multi(*optimizer, {3, 3});
  const auto good = multi.state();
  EXPECT_NE(good.find(R"("milestones":{"3":2})"), std::string::npos) << good;
  expect_refusal([&] { multi.load_state(replaced(good, R"({"3":2})", R"({"x":2})")); },
                 "'milestones' is 'x', which is no whole number");
  expect_refusal([&] { multi.load_state(replaced(good, R"({"3":2})", "[3]")); },
                 "'milestones' is no object");
  SequentialLR sequence(*optimizer, {part<StepLR>(1), part<StepLR>(1)}, {3});
  const auto two = sequence.state();
  SequentialLR of_one(*optimizer, {part<StepLR>(1)}, {});
  expect_refusal([&] { of_one.load_state(replaced(two, "[3]", "[]")); },
                 "'_schedulers' has 2 elements; this program's schedule has 1");
  expect_refusal([&] { sequence.load_state(replaced(two, "\"step_size\":1", "\"step_size\":0")); },
                 "StepLR: step_size is 0");
  expect_refusal([&] { sequence.load_state(replaced(two, "\"gamma\"", "\"gama\"")); },
                 "the state of a SequentialLR / _schedulers 0 has no 'gamma'");
  EXPECT_EQ(sequence.state(), two);
  OneCycleLR cycle(*optimizer, 0.5, 10);
  const auto one = cycle.state();
  expect_refusal(
      [&] {
        cycle.load_state(replaced(one, "\"cycle_momentum\":true", "\"cycle_momentum\":false"));
      },
      "'cycle_momentum' is 'false'; this program's schedule has true");
  expect_refusal(
      [&] {
        cycle.load_state(replaced(one, "\"start_lr\":\"initial_lr\"", "\"start_lr\":\"lr\""));
      },
      "a phase goes from or to 'lr', which no group has");
  EXPECT_EQ(cycle.state(), one);
  ReduceLROnPlateau plateau(*optimizer);
  expect_refusal([&] { plateau.load_state(replaced(plateau.state(), "\"min\"", "\"mid\"")); },
                 "mode 'mid' is unknown");
  expect_refusal([&] { plateau.load_state(replaced(plateau.state(), "\"min\"", "null")); },
                 "'mode' is 'null'; expected a text");
}

class ScheduleRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ScheduleRanks, ::testing::Values(1, 2, 3));

TEST_P(ScheduleRanks, ACheckpointHasIt) {
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    struct Training {
      torch::nn::Linear net{2, 1};
      torch::optim::SGD optimizer{net->parameters(), torch::optim::SGDOptions(0.5).momentum(0.5)};
      SequentialLR schedule{optimizer, {part<OneCycleLR>(0.5, 8), part<StepLR>(2, 0.5)}, {4}};
      ReduceLROnPlateau plateau{optimizer, "min", 0.5, 0};
      training::TrainingState state;
      Training() {
        state.add("model", net).add("optimizer", optimizer).add("schedule", schedule);
        state.add("plateau", plateau);
      }
      Rates train(int steps) {
        Rates all;
        for (int i = 0; i < steps; ++i) {
          schedule.step();
          plateau.step(1);
          all.push_back(rates_of(optimizer)[0]);
          all.push_back(
              static_cast<torch::optim::SGDOptions&>(optimizer.param_groups()[0].options())
                  .momentum());
        }
        return all;
      }
    };
    Training first;
    first.train(3);
    {
      training::Checkpointer checkpointer(group, folder / "c");
      checkpointer.save(first.state, 3);
      checkpointer.wait();
      group->barrier();
    }
    group->barrier();
    Training second;
    training::Checkpointer checkpointer(group, folder / "c");
    ASSERT_TRUE(checkpointer.load_latest(second.state));
    EXPECT_EQ(rates_of(second.optimizer), rates_of(first.optimizer));
    EXPECT_EQ(second.train(6), first.train(6));
    group->close();
  }));
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
