// SPDX-License-Identifier: BSD-3-Clause
#include "progress.h"

#include <gtest/gtest.h>

#include <sstream>

namespace example {
namespace {

Totals totals(double loss, int64_t correct, int64_t samples) {
  Totals result;
  result.loss = loss;
  result.correct = correct;
  result.samples = samples;
  return result;
}

TEST(Totals, AreMeansOfNothingToo) {
  EXPECT_EQ(Totals().mean_loss(), 0);
  EXPECT_EQ(Totals().accuracy(), 0);
  EXPECT_DOUBLE_EQ(totals(6, 3, 4).mean_loss(), 1.5);
  EXPECT_DOUBLE_EQ(totals(6, 3, 4).accuracy(), 0.75);
}

TEST(Progress, WritesOneLineAnEpochIntoAPipe) {
  std::ostringstream stream;
  {
    Progress progress(stream, Progress::Style::Lines, {2, 3});
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      progress.begin_epoch(epoch);
      for (int i = 0; i < 3; ++i) progress.step(totals(1, 1, 2));
      progress.end_epoch(totals(6, 3, 4), totals(2, 9, 10));
    }
    EXPECT_GT(progress.training_seconds(), 0);
  }
  const std::string text = stream.str();
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(
      text.rfind("epoch 1/2: loss 1.500, accuracy 0.750; test loss 0.200, accuracy 0.9000; ", 0),
      0U)
      << text;
  EXPECT_NE(text.find("\nepoch 2/2: "), std::string::npos) << text;
  EXPECT_NE(text.find("samples/s, 0:00 left\n"), std::string::npos) << text;
}

TEST(Progress, OfOtherRanksIsSilent) {
  std::ostringstream stream;
  {
    Progress progress(stream, Progress::Style::Silent, {1, 1});
    progress.begin_epoch(0);
    progress.step(totals(1, 1, 2));
    progress.end_epoch(totals(1, 1, 2), totals(1, 1, 2));
  }
  EXPECT_EQ(stream.str(), "");
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(6.6), "0:07");
  EXPECT_EQ(format_duration(750), "12:30");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(-1), "0:00");
}

}  // namespace
}  // namespace example
