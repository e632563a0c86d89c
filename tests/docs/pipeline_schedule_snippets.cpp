// SPDX-License-Identifier: BSD-3-Clause
// The snippets about schedules on the page of pipelines. check_snippets.py compares each `// [name]`
// part with the page. What they print is compared with the page by a test of schedules.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>

#include <iostream>

namespace {

TEST(PipelinePage, SimulatesASchedule) {
  // clang-format off
  // [simulate]
  const auto plan = lockstep::pipeline::one_f_one_b().plan(/*ranks=*/2, /*stages_per_rank=*/1, /*microbatches=*/4);
  std::cout << plan.simulate({.forward = 1, .input = 1, .weight = 1}) << '\n';
  // [simulate]
  // clang-format on
  EXPECT_EQ(plan.ranks(), 2);
}

TEST(PipelinePage, ComparesSchedulesByMeasuredCosts) {
  // [measured_costs]
  lockstep::pipeline::SimulationCosts costs;
  costs.stages = {{.forward = 10.2, .input = 9.8, .weight = 9.1, .backward = 17.5},
                  {.forward = 12.0, .input = 11.9, .weight = 10.8, .backward = 21.0}};
  costs.transfer = 0.3;
  const auto whole = lockstep::pipeline::one_f_one_b().plan(2, 1, 8).simulate(costs);
  const auto split = lockstep::pipeline::zero_bubble().plan(2, 1, 8).simulate(costs);
  std::cout << "1F1B " << whole.duration << ", ZB1P " << split.duration << '\n';
  // [measured_costs]
  EXPECT_GT(whole.duration, 8 * 33.0);
  EXPECT_GT(split.duration, 8 * 34.7);
}

TEST(PipelinePage, TakesAPlanFromAText) {
  // [text]
  const auto schedule = lockstep::pipeline::from_text(
      "0F0,0F1,0B0,0B1\n"
      "1F0,1B0,1F1,1B1\n");
  const auto plan_of_text = schedule.plan(2, 1, 2);  // other numbers are an error
  // [text]
  EXPECT_EQ(plan_of_text, lockstep::pipeline::one_f_one_b().plan(2, 1, 2));
}

}  // namespace
