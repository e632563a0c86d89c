// SPDX-License-Identifier: BSD-3-Clause
// Requests that wait, are late, or are taken back.
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <torch/torch.h>

#include <chrono>
#include <deque>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ensemble_test_support.h"
#include "support/expected_errors.h"
#include "support/some_limit.h"

namespace lockstep::inference {
namespace {

using lockstep::testing::expect_refusal;
using testing::failure_of;
using testing::Gate;
using testing::happens;
using testing::numbers;
using testing::stopping;
using testing::times;
using namespace std::chrono_literals;

TEST(Ensemble, LatencyEndsWithTheMembersNotWithGet) {
  Ensemble ensemble({times("a", 2)});
  auto pending = ensemble.submit(numbers(1));
  ASSERT_TRUE(happens([&] { return ensemble.statistics().members[0].answered == 1; }));
  std::this_thread::sleep_for(50ms);
  static_cast<void>(pending.get());
  const auto statistics = ensemble.statistics();
  EXPECT_EQ(statistics.latency.count, 1U);
  EXPECT_EQ(statistics.latency.p50, statistics.members[0].latency.p50);
}

TEST(Ensemble, AFullQueueThrowsAtOnceOrWaits) {
  const Gate gate;
  Ensemble ensemble({member("a", [&] { return gate.model(); })}, EnsembleOptions().queue(2));
  auto first = ensemble.submit(stopping());
  auto second = ensemble.submit(numbers(2));
  try {
    static_cast<void>(ensemble.submit(numbers(3)));
    ADD_FAILURE() << "no QueueFull";
  } catch (const QueueFull& error) {
    EXPECT_EQ(error.failure(), EnsembleFailure::QueueFull);
    EXPECT_STREQ(error.what(), "Ensemble: the queue of 2 requests is full");
  }
  EXPECT_EQ(ensemble.statistics().refused, 1U);
  EXPECT_EQ(ensemble.statistics().in_flight, 2U);
  EXPECT_FALSE(first.ready());
  EXPECT_FALSE(first.wait_for(1ms));
  gate.open();
  EXPECT_TRUE(second.wait_for(1min));
  // Answers that nobody has taken yet do not fill the queue.
  auto third = ensemble.submit(numbers(3));
  auto fourth = ensemble.submit(numbers(4));
  EXPECT_TRUE(torch::equal(third.get().output, numbers(3)));
  EXPECT_TRUE(torch::equal(fourth.get().output, numbers(4)));
  EXPECT_TRUE(torch::equal(second.get().output, numbers(2)));
  EXPECT_TRUE(torch::equal(first.get().output, stopping()));
}

TEST(Ensemble, AFullQueueIsWaitedForByTheThreadThatHoldsTheAnswers) {
  Ensemble ensemble({times("a", 2)}, EnsembleOptions().queue(2).when_full(WhenFull::Wait));
  std::vector<PendingAnswer> pending;
  for (int request = 0; request < 50; ++request) {
    pending.push_back(ensemble.submit(numbers(static_cast<float>(request))));
  }
  for (int request = 0; request < 50; ++request) {
    EXPECT_TRUE(torch::equal(pending[static_cast<std::size_t>(request)].get().output,
                             numbers(static_cast<float>(request)) * 2));
  }
}

TEST(Ensemble, WaitingForRoomEndsWithTheDeadline) {
  // Long enough for the member to begin.
  lockstep::testing::expect_with_some_limit([](std::chrono::milliseconds deadline) -> std::string {
    const Gate gate;
    Ensemble ensemble({member("a", [&] { return gate.model(); })},
                      EnsembleOptions().queue(1).when_full(WhenFull::Wait).deadline(deadline));
    const std::string limit = std::to_string(deadline.count()) + " ms";
    auto stuck = ensemble.submit(stopping());
    static_cast<void>(happens([&] { return gate.has_somebody() || stuck.ready(); }));
    if (!gate.has_somebody()) return "a did not begin in time";
    try {
      static_cast<void>(ensemble.submit(numbers(1)));
      return "no QueueFull";
    } catch (const QueueFull& error) {
      const std::string text = error.what();
      if (text.find("no room within the deadline of " + limit) == std::string::npos) return text;
    }
    try {
      static_cast<void>(stuck.get());
      return "the request at the gate was answered";
    } catch (const EnsembleError& error) {
      const std::string text = error.what();
      if (text.find("a had not answered within " + limit) == std::string::npos) return text;
      if (error.failure() != EnsembleFailure::Deadline) return "another failure, with: " + text;
    }
    gate.open();
    // The slot of a request that was given up is free when its member is through.
    return happens([&] { return ensemble.statistics().in_flight == 0; }) ? "" : "a slot is lost";
  });
}

TEST(Ensemble, AQuorumAnswersAtTheDeadlineAndNamesWhoIsLate) {
  lockstep::testing::expect_with_some_limit([](std::chrono::milliseconds deadline) -> std::string {
    const Gate gate;
    Ensemble ensemble({times("fast", 2), member("slow", [&] { return gate.model(100); })},
                      EnsembleOptions().quorum(1).deadline(deadline));
    auto first = ensemble.submit(stopping()).get();
    auto second = ensemble.submit(numbers(1)).get();
    const std::string limit = std::to_string(deadline.count()) + " ms";
    if (first.missing != std::vector<std::string>{"slow"})
      return "slow is not the one that is missing";
    if (first.reasons != std::vector<std::string>{"had not answered within " + limit})
      return first.reasons[0];
    if (second.reasons != std::vector<std::string>{"had not begun within " + limit})
      return second.reasons[0];
    if (!torch::equal(second.output, numbers(1) * 2)) return "the output is not that of fast";
    gate.open();
    if (!happens([&] { return ensemble.statistics().in_flight == 0; })) return "a slot is lost";
    if (ensemble.statistics().members[1].missing != 2) return "missing was not counted";
    auto third = ensemble.submit(numbers(1)).get();
    return third.missing.empty() && torch::equal(third.output, numbers(1) * 51) ? "" : "not back";
  });
}

TEST(Ensemble, ARequestThatCannotReachItsQuorumWaitsForNobody) {
  const Gate gate;
  const auto throwing = member(
      "a", [] { return [](torch::Tensor) -> torch::Tensor { throw std::runtime_error("no"); }; });
  Ensemble ensemble({throwing, member("b", [&] { return gate.model(); })},
                    EnsembleOptions().deadline(10min));
  EXPECT_EQ(failure_of(ensemble.submit(stopping()),
                       "a threw std::runtime_error: no; b had not answered yet"),
            EnsembleFailure::MemberFailed);
}

TEST(Ensemble, WhoLetsARequestGoTakesItBack) {
  const Gate gate;
  Ensemble ensemble({member("a", [&] { return gate.model(); })});
  auto first = ensemble.submit(stopping());
  ASSERT_TRUE(gate.waits_for_somebody());
  { const auto dropped = ensemble.submit(numbers(1)); }
  auto cancelled = ensemble.submit(numbers(2));
  cancelled.cancel();
  expect_refusal([&] { static_cast<void>(cancelled.get()); }, "was taken back");
  first = ensemble.submit(numbers(3));  // and so is what stood there before
  EXPECT_EQ(ensemble.statistics().cancelled, 3U);
  EXPECT_EQ(ensemble.statistics().in_flight, 2U);  // one is at the gate
  gate.open();
  EXPECT_TRUE(torch::equal(first.get().output, numbers(3)));
  EXPECT_EQ(gate.calls(), 2);  // that at the gate and the last
  EXPECT_TRUE(happens([&] { return ensemble.statistics().in_flight == 0; }));
}

TEST(Ensemble, NoSlotIsLostInThousandsOfRequests) {
  Ensemble ensemble({times("a", 1), times("b", 3)}, EnsembleOptions().queue(4));
  std::deque<PendingAnswer> pending;
  int wrong = 0;
  for (int request = 0; request < 5000; ++request) {
    if (pending.size() == 4) {
      wrong +=
          torch::equal(pending.front().get().output, numbers(static_cast<float>(request - 4)) * 2)
              ? 0
              : 1;
      pending.pop_front();
    }
    pending.push_back(ensemble.submit(numbers(static_cast<float>(request))));
  }
  pending.clear();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(happens([&] { return ensemble.statistics().in_flight == 0; }));
  const auto statistics = ensemble.statistics();
  EXPECT_EQ(statistics.submitted, 5000U);
  EXPECT_EQ(statistics.answered + statistics.cancelled, 5000U);
  EXPECT_EQ(statistics.latency.count, statistics.answered);
  EXPECT_GE(statistics.members[0].latency.p99, statistics.members[0].latency.p50);
  EXPECT_GT(statistics.members[1].compute.p50.count(), 0);
  EXPECT_GT(statistics.members[0].batch_sizes[0], 0U);
}

}  // namespace
}  // namespace lockstep::inference
