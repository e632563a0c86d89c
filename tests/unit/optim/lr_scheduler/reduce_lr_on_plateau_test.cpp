// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <cmath>

#include "scheduled_groups.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using testing::expect_error;
using testing::expect_no_errors;
using testing::expect_refusal;
using testing::run_ranks;
using Rates = std::vector<double>;

TEST(ReduceLROnPlateau, ReducesTheRateAfterItsPatience) {
  const auto optimizer = sgd({0.5});
  ReduceLROnPlateau schedule(*optimizer, "min", 0.5, 2);
  for (const double metric : {3.0, 2.0, 2.5, 2.0}) schedule.step(metric);
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.5});
  EXPECT_EQ(schedule.num_bad_epochs(), 2);
  schedule.step(std::nan(""));
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.25});
  EXPECT_EQ(rates_of(*optimizer), Rates{0.25});
  EXPECT_EQ(schedule.best(), 2.0);
  EXPECT_EQ(schedule.num_bad_epochs(), 0);
  EXPECT_EQ(schedule.last_epoch(), 5);
}

TEST(ReduceLROnPlateau, AHigherMetricMayBeBetterBelowZeroToo) {
  // LibTorch's own scheduler begins with the smallest positive number there.
  const auto optimizer = sgd({0.5});
  ReduceLROnPlateau schedule(*optimizer, "max", 0.5, 0);
  for (const double metric : {-5.0, -4.0, -3.0}) schedule.step(metric);
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.5});
  schedule.step(-4.0);
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.25});
}

TEST(ReduceLROnPlateau, EachGroupHasItsOwnLeastRate) {
  const auto optimizer = sgd({0.5, 0.5});
  ReduceLROnPlateau schedule(
      *optimizer, ReduceLROnPlateauOptions().factor(0.25).patience(0).min_lr({0.25, 0.0625}));
  for (int i = 0; i < 3; ++i) schedule.step(1);
  EXPECT_EQ(schedule.get_last_lr(), (Rates{0.25, 0.0625}));
  optimizer->add_param_group(torch::optim::OptimizerParamGroup({torch::zeros({1})}));
  expect_refusal([&] { schedule.step(1); }, "has 3 parameter groups, and min_lr has 2 values");

  const auto growing = sgd({0.5});
  ReduceLROnPlateau of_all(*growing, ReduceLROnPlateauOptions().patience(0).min_lr(0.125));
  growing->add_param_group(torch::optim::OptimizerParamGroup({torch::zeros({1})}));
  for (int i = 0; i < 3; ++i) of_all.step(1);
  EXPECT_EQ(of_all.get_last_lr(), (Rates{0.125, 0.125}));
}

TEST(ReduceLROnPlateau, BadArgumentsAreRefused) {
  const auto optimizer = sgd({0.5});
  const auto refused = [&](const ReduceLROnPlateauOptions& options, const std::string& text) {
    expect_refusal([&] { ReduceLROnPlateau(*optimizer, options); }, text);
  };
  refused(ReduceLROnPlateauOptions().factor(1), "factor is 1; it should be < 1.0");
  refused(ReduceLROnPlateauOptions().mode("low"), "mode 'low' is unknown; expected min or max");
  refused(ReduceLROnPlateauOptions().threshold_mode("r"), "threshold_mode 'r' is unknown");
  refused(ReduceLROnPlateauOptions().min_lr({0.1, 0.2}), "min_lr must have the same length");
  refused(ReduceLROnPlateauOptions().average_metric(true), "average_metric needs the group");
}

TEST(ReduceLROnPlateau, ItsStateHasNoInfinityThatJsonLacks) {
  const auto optimizer = sgd({0.5});
  ReduceLROnPlateau schedule(*optimizer, "max", 0.5, 0);
  EXPECT_NE(schedule.state().find("\"best\":\"-inf\""), std::string::npos) << schedule.state();
  ReduceLROnPlateau other(*optimizer, "min");
  other.load_state(schedule.state());
  other.step(-1e300);
  EXPECT_EQ(other.best(), -1e300);
}

class PlateauRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, PlateauRanks, ::testing::Values(1, 2, 3));

TEST_P(PlateauRanks, AGroupAveragesMetrics) {
  expect_no_errors(run_ranks(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto optimizer = sgd({0.5});
    ReduceLROnPlateau schedule(
        *optimizer, ReduceLROnPlateauOptions().patience(0).group(group).average_metric(true));
    schedule.step(3.0 * group->rank());
    EXPECT_EQ(schedule.best(), 1.5 * (group->size() - 1));
    group->close();
  }));
}

TEST_P(PlateauRanks, AGroupComparesMetrics) {
  const auto errors = run_ranks(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto optimizer = sgd({0.5});
    ReduceLROnPlateau schedule(*optimizer, ReduceLROnPlateauOptions().group(group));
    schedule.step(0.25);
    schedule.step(std::nan(""));
    EXPECT_EQ(schedule.best(), 0.25);
    const auto before = schedule.state();
    const bool is_last = group->size() > 1 && group->rank() == group->size() - 1;
    try {
      schedule.step(is_last ? 0.125 : 0.0625);
    } catch (...) {
      EXPECT_EQ(schedule.state(), before);
      group->close();
      throw;
    }
    group->close();
  });
  if (GetParam() == 1) {
    expect_no_errors(errors);
    return;
  }
  for (const auto& error : errors) {
    expect_error<c10::Error>(error, "the metric is 0.0625 on rank 0 and 0.125 on rank " +
                                        std::to_string(GetParam() - 1) +
                                        "; give all ranks the same, or set average_metric(true)");
  }
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
