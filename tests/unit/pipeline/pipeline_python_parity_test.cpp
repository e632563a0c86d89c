// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/pipeline_parity_driver.py: reads PyTorch's orders, writes Lockstep's
// plans.
#include <gtest/gtest.h>
#include <lockstep/pipeline/schedule.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "support/expected_errors.h"

namespace lockstep::pipeline {
namespace {

TEST(PipelinePythonParity, PlansHaveTheOrdersOfPyTorch) {
  const char* orders_path = std::getenv("LOCKSTEP_PIPELINE_ORDERS");
  const char* plans_path = std::getenv("LOCKSTEP_PIPELINE_PLANS");
  if (orders_path == nullptr || plans_path == nullptr) {
    GTEST_SKIP() << "pipeline_parity_driver.py runs this";
  }
  std::ifstream orders(orders_path);
  std::ofstream plans(plans_path);
  int made = 0;
  int refused = 0;
  int lowered = 0;
  for (std::string line; std::getline(orders, line);) {
    SCOPED_TRACE(line);
    std::istringstream words(line);
    std::string name, kind;
    std::int64_t ranks = 0, stages_per_rank = 0, microbatches = 0;
    words >> name >> ranks >> stages_per_rank >> microbatches >> kind;
    const auto make = [&] {
      return schedule_named(name).plan(ranks, stages_per_rank, microbatches);
    };
    if (kind == "refused") {
      testing::expect_refusal([&] { static_cast<void>(make()); }, "the pipeline schedule");
      ++refused;
      continue;
    }
    std::string expected;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      ASSERT_TRUE(std::getline(orders, line));
      expected += line;
      expected += '\n';
    }
    const Plan plan = make();
    if (kind == "lowered") {
      EXPECT_EQ(Plan::from_csv(expected), plan);
      ++lowered;
      continue;
    }
    ASSERT_EQ(plan.to_csv(), expected);
    EXPECT_EQ(Plan::from_csv(expected), plan);
    plans << ranks << ',' << stages_per_rank << ',' << microbatches << '\n' << plan.to_csv();
    ++made;
  }
  EXPECT_GT(made, 800);
  EXPECT_GT(refused, 200);
  EXPECT_GT(lowered, 80);
  plans.close();
  EXPECT_TRUE(plans.good());
}

}  // namespace
}  // namespace lockstep::pipeline
