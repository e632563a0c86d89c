// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "ensemble_test_support.h"
#include "inference/latency_histogram.h"
#include "inference/tuner.h"
#include "support/expected_errors.h"

namespace lockstep::inference {
namespace {

using lockstep::testing::expect_refusal;
using testing::times;
using namespace std::chrono_literals;

TEST(Ensemble, TuneMeasuresEachSettingAndNamesTheBest) {
  Ensemble ensemble({times("a", 1), times("b", 2)});
  const auto report =
      ensemble.tune(torch::ones({1, 8}), TuneOptions().cores(2).batches({1, 4}).duration(20ms));
  ASSERT_EQ(report.trials.size(), 6U);  // 1x1, 2x1 and 1x2, each with two batches
  for (const auto& trial : report.trials) {
    EXPECT_LE(trial.copies * trial.threads, 2);
    EXPECT_GT(trial.requests_per_second, 0);
    EXPECT_LE(trial.requests_per_second, report.best.requests_per_second);
    EXPECT_GE(trial.p99, trial.p50);
  }
  expect_refusal(
      [&] { static_cast<void>(ensemble.tune(torch::ones(1), TuneOptions().batches({}))); },
      "batches is empty");
  expect_refusal(
      [&] { static_cast<void>(ensemble.tune(torch::ones(1), TuneOptions().batches({0}))); },
      "batches has 0");
  expect_refusal([&] { static_cast<void>(ensemble.tune(torch::ones(1), TuneOptions().cores(-1))); },
                 "cores is -1");
  expect_refusal([&] { static_cast<void>(ensemble.tune(torch::Tensor())); }, "undefined");
  expect_refusal(
      [&] { static_cast<void>(ensemble.tune(torch::ones(1), TuneOptions().batches({16384}))); },
      "batches has no number for which an ensemble of 2 members has room");
  TuneTrial fast;
  fast.requests_per_second = 100;
  fast.p99 = 9ms;
  TuneTrial steady;
  steady.requests_per_second = 50;
  steady.p99 = 2ms;
  EXPECT_EQ(detail::best_of({steady, fast}, 0ms).requests_per_second, 100);
  EXPECT_EQ(detail::best_of({fast, steady}, 5ms).requests_per_second, 50);
  EXPECT_EQ(detail::best_of({fast, steady}, 1ms).p99, 2ms);  // none is within: the lowest
}

TEST(Ensemble, TuneLeavesOutWhatNoEnsembleCanHave) {
  std::vector<Member> all;
  for (int index = 0; index < 128; ++index) all.push_back(times("m" + std::to_string(index), 1));
  const Ensemble ensemble(all, EnsembleOptions().kind(WorkerKind::Thread));
  const auto report =
      ensemble.tune(torch::ones({1, 8}), TuneOptions().cores(2).batches({1, 4096}).duration(1ms));
  ASSERT_EQ(report.trials.size(), 2U);  // not 2 copies, which were 256, nor batches of 4096
  for (const auto& trial : report.trials) EXPECT_EQ(trial.copies * trial.max_batch, 1);
}

TEST(Ensemble, QuantilesAreAtMostASixteenthTooLarge) {
  detail::LatencyHistogram histogram{};
  EXPECT_EQ(histogram.quantile(0.5), 0U);
  for (std::uint64_t microseconds = 1; microseconds <= 1000; ++microseconds)
    histogram.add(1000 * microseconds);
  EXPECT_EQ(histogram.count(), 1000U);
  for (const double part : {0.5, 0.99, 0.999}) {
    const auto exact = part * 1'000'000;
    EXPECT_GE(static_cast<double>(histogram.quantile(part)), exact);
    EXPECT_LE(static_cast<double>(histogram.quantile(part)), exact * 17 / 16);
  }
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{255}, std::uint64_t{256}, std::uint64_t{271},
        std::uint64_t{272}, std::uint64_t{1} << 37}) {
    const auto bucket = detail::LatencyHistogram::bucket_of(value);
    EXPECT_GT(detail::LatencyHistogram::end_of(bucket), value);
    if (bucket == 0) continue;
    EXPECT_LE(detail::LatencyHistogram::end_of(bucket - 1), value);
  }
  EXPECT_EQ(detail::LatencyHistogram::bucket_of(std::numeric_limits<std::uint64_t>::max()),
            detail::LatencyHistogram::kBuckets - 1);
}

}  // namespace
}  // namespace lockstep::inference
