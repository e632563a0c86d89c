// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_tuner.h"

#include <gtest/gtest.h>

#include <random>

namespace lockstep {
namespace {

std::size_t count(const std::vector<bool>& ends) {
  return static_cast<std::size_t>(std::count(ends.begin(), ends.end(), true));
}

TEST(BucketTuner, EndsByHand) {
  // Ready at 1, 2 and 10; a bucket costs 1, a byte 0.1.
  const StepTimes times{{1, 2, 10}, {10, 10, 10}, 1, 0.1};
  EXPECT_DOUBLE_EQ(end_of_reduction(times, {false, false, true}), 10 + 1 + 3);
  EXPECT_DOUBLE_EQ(end_of_reduction(times, {true, true, true}), 12);
  EXPECT_DOUBLE_EQ(end_of_reduction(times, {false, true, true}), 12);
}

TEST(BucketTuner, KeepsTheLastBucketSmallWhereThingsWaitForIt) {
  const StepTimes times{{1, 2, 10}, {10, 10, 10}, 1, 0.1};
  EXPECT_EQ(tune_boundaries(times, 1000), (std::vector<bool>{false, true, true}));
}

TEST(BucketTuner, MakesOneBucketWhereEachIsExpensive) {
  const StepTimes times{{1, 1, 1}, {10, 10, 10}, 100, 0.1};
  EXPECT_EQ(count(tune_boundaries(times, 1000)), 1U);
  EXPECT_EQ(count(tune_boundaries(times, 20)), 2U) << "the cap holds";
  EXPECT_EQ(count(tune_boundaries(times, 5)), 3U) << "a large gradient goes alone";
}

TEST(BucketTuner, FindsTheBestOfAllDivisions) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> some(0, 1);
  for (int round = 0; round < 30; ++round) {
    StepTimes times;
    times.seconds_per_bucket = 0.2 * some(random);
    times.seconds_per_byte = 0.002 * some(random);
    double ready = 0;
    for (int i = 0; i < 10; ++i) {
      times.ready.push_back(ready += 0.3 * some(random));
      times.bytes.push_back(static_cast<std::size_t>(1 + 100 * some(random)));
    }
    double best = 1e9;
    for (unsigned mask = 0; mask < 512; ++mask) {
      std::vector<bool> ends(10, true);
      for (std::size_t i = 0; i < 9; ++i) ends[i] = (mask >> i & 1U) != 0;
      best = std::min(best, end_of_reduction(times, ends));
    }
    EXPECT_DOUBLE_EQ(end_of_reduction(times, tune_boundaries(times, 1 << 20)), best);
  }
}

TEST(BucketTuner, FitsALineThroughMeasuredTimes) {
  CostSums sums;
  for (const double bytes : {100.0, 1000.0, 5000.0}) sums.add(bytes, 0.5 + 0.001 * bytes);
  StepTimes times;
  fit_costs(sums, times);
  EXPECT_NEAR(times.seconds_per_bucket, 0.5, 1e-9);
  EXPECT_NEAR(times.seconds_per_byte, 0.001, 1e-12);
  // One size alone says nothing about the cost of a bucket.
  CostSums one;
  one.add(100, 2);
  one.add(100, 4);
  fit_costs(one, times);
  EXPECT_DOUBLE_EQ(times.seconds_per_bucket, 0);
  EXPECT_DOUBLE_EQ(times.seconds_per_byte, 0.03);
  // Nor may a cost be negative.
  CostSums steep;
  steep.add(100, 0.1);
  steep.add(200, 0.4);
  fit_costs(steep, times);
  EXPECT_DOUBLE_EQ(times.seconds_per_bucket, 0);
  EXPECT_GT(times.seconds_per_byte, 0);
  fit_costs({}, times);
  EXPECT_DOUBLE_EQ(times.seconds_per_byte, 0);
}

}  // namespace
}  // namespace lockstep
