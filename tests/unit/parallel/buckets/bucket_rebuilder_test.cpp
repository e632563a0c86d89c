// SPDX-License-Identifier: BSD-3-Clause
// What is learned from backwards that ranks, as threads, have in different orders.
#include "parallel/buckets/bucket_rebuilder.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using ParameterOrder = std::vector<std::size_t>;
using Proposal = std::optional<BucketRebuilder::Proposal>;

/// Gradients of 64 bytes each.
BucketRebuilder rebuilder_of(std::size_t parameters, bool learns_order = true,
                             std::size_t tune_after = 0, std::size_t cap = 64) {
  const std::vector<GradientShape> shapes(parameters, {.elements = 16});
  return {shapes, {.caps = {cap}, .learns_order = learns_order, .tune_after = tune_after}};
}

/// One iteration in which gradients come in this order.
Proposal iterate(BucketRebuilder& rebuilder, ProcessGroup& group, const ParameterOrder& arrivals,
                 int leader = 0) {
  rebuilder.begin_iteration();
  for (const std::size_t parameter : arrivals) rebuilder.note_ready(parameter);
  return rebuilder.end_iteration(group, leader);
}

ParameterOrder order_of(const BucketRebuilder::Proposal& proposal) {
  ParameterOrder order;
  for (const BucketSpec& bucket : proposal.buckets) {
    order.insert(order.end(), bucket.parameters.begin(), bucket.parameters.end());
  }
  return order;
}

void with_ranks(int ranks, const std::function<void(ProcessGroup&)>& body) {
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    body(*group);
    group->close();
  });
}

TEST(BucketRebuilder, BeginsInReverseOrderOfRegistration) {
  EXPECT_EQ(order_of(rebuilder_of(3).first()), (ParameterOrder{2, 1, 0}));
}

TEST(BucketRebuilder, CountsTheLastOfSeveralGradients) {
  with_ranks(1, [](ProcessGroup& group) {
    auto rebuilder = rebuilder_of(3);
    const auto proposal = iterate(rebuilder, group, {2, 1, 2, 0});
    ASSERT_TRUE(proposal);
    EXPECT_EQ(order_of(*proposal), (ParameterOrder{1, 2, 0}));
  });
}

TEST(BucketRebuilder, TakesTheOrderOfTheLeaderOnAllRanks) {
  with_ranks(3, [](ProcessGroup& group) {
    auto rebuilder = rebuilder_of(3);
    const std::vector<ParameterOrder> arrivals{{0, 2, 1}, {1, 0, 2}, {2, 1, 0}};
    const auto proposal =
        iterate(rebuilder, group, arrivals[static_cast<std::size_t>(group.rank())], /*leader=*/1);
    ASSERT_TRUE(proposal);
    EXPECT_EQ(order_of(*proposal), (ParameterOrder{1, 0, 2}));
  });
}

TEST(BucketRebuilder, PutsWhatDidNotComeBehindAllOthers) {
  with_ranks(1, [](ProcessGroup& group) {
    auto rebuilder = rebuilder_of(4);
    const auto proposal = iterate(rebuilder, group, {1, 3});
    ASSERT_TRUE(proposal);
    EXPECT_EQ(order_of(*proposal), (ParameterOrder{1, 3, 2, 0}));
  });
}

TEST(BucketRebuilder, LearnsFromTheFirstIterationAlone) {
  with_ranks(2, [](ProcessGroup& group) {
    auto same = rebuilder_of(3);
    EXPECT_FALSE(iterate(same, group, {2, 1, 0})) << "the buckets have this order already";
    EXPECT_FALSE(iterate(same, group, {0, 1, 2}));
    auto fixed = rebuilder_of(3, /*learns_order=*/false);
    EXPECT_FALSE(iterate(fixed, group, {0, 1, 2}));
  });
}

TEST(BucketRebuilder, TunesOnceAndMeasuresAtLeastOneIterationBefore) {
  with_ranks(2, [](ProcessGroup& group) {
    for (const std::size_t tune_after : {1U, 5U}) {
      auto rebuilder = rebuilder_of(3, /*learns_order=*/false, tune_after);
      const std::size_t tuned_behind = tune_after == 1 ? 3 : 5;
      for (std::size_t iteration = 1; iteration < 8; ++iteration) {
        const auto proposal = iterate(rebuilder, group, {2, 1});
        EXPECT_EQ(rebuilder.is_measuring(), iteration > 2 && iteration <= tuned_behind)
            << iteration;
        ASSERT_EQ(proposal.has_value(), iteration == tuned_behind) << iteration;
        if (proposal) {
          EXPECT_EQ(proposal->reason.substr(0, 6), "tuned:");
          EXPECT_EQ(order_of(*proposal), (ParameterOrder{2, 1, 0})) << "boundaries alone change";
        }
      }
    }
  });
}

// Were it taken to be ready at once, a bucket of its own would look best.
TEST(BucketRebuilder, TakesWhatNeverCameAtTheEndWhenItTunes) {
  with_ranks(2, [](ProcessGroup& group) {
    auto rebuilder = rebuilder_of(3, /*learns_order=*/false, /*tune_after=*/3, /*cap=*/192);
    const auto begin = BucketRebuilder::Clock::now();
    rebuilder.note_reduced(64, begin, begin + std::chrono::nanoseconds(2));
    rebuilder.note_reduced(128, begin, begin + std::chrono::nanoseconds(3));
    Proposal proposal;
    for (int iteration = 0; iteration < 3; ++iteration) {
      proposal = iterate(rebuilder, group, {1, 0});
    }
    ASSERT_TRUE(proposal);
    EXPECT_EQ(proposal->buckets.size(), 1U);
  });
}

}  // namespace
}  // namespace lockstep::testing
