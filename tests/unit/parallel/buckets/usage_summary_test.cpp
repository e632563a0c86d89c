// SPDX-License-Identifier: BSD-3-Clause
// The usage summary with ranks as threads: what each rank writes, and what all ranks read.
#include "parallel/buckets/usage_summary.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

constexpr std::size_t kSummarized = 4;  // parameters

TEST(UsageSummary, CountsRanksForEachParameterAndNothingElse) {
  run_ranks_or_throw(3, [](const std::shared_ptr<ProcessGroup>& group) {
    UsageSummary summary(*group, kSummarized);
    const int rank = group->rank();
    summary.clear();
    summary.set_samples(rank + 1);
    // All ranks use parameter 0, rank 1 alone uses parameter 2, and no rank uses the others.
    summary.add_used(0);
    if (rank == 1) summary.add_used(2);
    if (rank != 0) summary.add_late(0);
    if (rank == 2) summary.add_sparse(2);
    EXPECT_FALSE(summary.is_launched());
    summary.launch(*group);
    EXPECT_TRUE(summary.is_launched());
    summary.wait(*group);
    const auto expect = [&](std::size_t parameter, int used, int late, int sparse) {
      EXPECT_EQ(summary.used(parameter), used) << parameter;
      EXPECT_EQ(summary.late(parameter), late) << parameter;
      EXPECT_EQ(summary.sparse(parameter), sparse) << parameter;
    };
    expect(0, 3, 2, 0);
    expect(1, 0, 0, 0);
    expect(2, 1, 0, 1);
    expect(3, 0, 0, 0);
    EXPECT_EQ(summary.total_samples(), 1 + 2 + 3);
    EXPECT_EQ(summary.active_ranks(), 3);
    EXPECT_EQ(summary.first_active_rank(), 0);
    EXPECT_EQ(summary.idle(), 0);
    group->close();
  });
}

TEST(UsageSummary, TellsRanksWithoutDataFromRanksWithoutSamples) {
  run_ranks_or_throw(3, [](const std::shared_ptr<ProcessGroup>& group) {
    UsageSummary summary(*group, kSummarized);
    const int rank = group->rank();
    for (int iteration = 0; iteration < 2; ++iteration) {
      summary.clear();
      // Rank 0 has no data, rank 1 has a batch without samples, rank 2 has five samples.
      if (rank == 1) summary.set_samples(0);
      if (rank == 2) summary.set_samples(5);
      if (rank == 0) summary.set_samples(std::nullopt);
      if (rank != 0) summary.add_idle();
      summary.launch(*group);
      summary.wait(*group);
      EXPECT_FALSE(summary.is_active(0));
      EXPECT_TRUE(summary.is_active(1));
      EXPECT_EQ(summary.active_ranks(), 2);
      EXPECT_EQ(summary.first_active_rank(), 1);
      EXPECT_EQ(summary.total_samples(), 5);
      EXPECT_EQ(summary.idle(), 2);
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
