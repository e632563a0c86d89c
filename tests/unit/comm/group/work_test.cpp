// SPDX-License-Identifier: BSD-3-Clause
// What a program can do with a call besides waiting for it: futures, calls as one, names,
// deadlines.
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/core/error.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;

class WorkOfRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, WorkOfRanks, ::testing::Values(1, 2, 3));

TEST_P(WorkOfRanks, AFutureIsWhatFollowsACollective) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::full({4}, group->rank() + 1.0);
    int calls = 0;
    const auto mean = group->all_reduce(tensor).then([&] {
      ++calls;
      return tensor / group->size();
    });
    EXPECT_EQ(calls, 0) << "computed before anybody waited";
    EXPECT_EQ(mean.wait()[3].item<float>(), static_cast<float>(group->size() + 1) / 2);
    EXPECT_TRUE(mean.is_completed());
    const auto text =
        mean.then([](const torch::Tensor& value) { return value[0].item<float>() > 0; });
    EXPECT_TRUE(text.wait());
    mean.wait();
    EXPECT_EQ(calls, 1);
    group->close();
  });
}

TEST_P(WorkOfRanks, AFutureOfAFutureIsTheInnerOne) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    // As a compression hook: one collective, a computation, another collective; two at a time.
    std::vector<Future<torch::Tensor>> results;
    for (int i = 0; i < 2; ++i) {
      const auto first = torch::full({3}, group->rank() + i, torch::kLong);
      results.push_back(group->all_reduce(first).then([=] {
        const auto second = first * (group->rank() + 1);
        return group->all_reduce(second).then([=] { return second; });
      }));
    }
    const int ranks = group->size();
    for (int i = 0; i < 2; ++i) {
      const int first = ranks * (ranks - 1) / 2 + i * ranks;
      const auto& result = results[static_cast<std::size_t>(i)];
      EXPECT_FALSE(result.is_completed());
      EXPECT_EQ(result.wait()[0].item<int>(), first * ranks * (ranks + 1) / 2);
      EXPECT_TRUE(result.is_completed());
    }
    group->close();
  });
}

TEST(Futures, PassErrorsOnAndMayBeVoidOrReady) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    bool was_called = false;
    const Future<void> done = group->all_reduce(torch::ones({1})).then([&] { was_called = true; });
    done.wait();
    EXPECT_TRUE(was_called);
    int failures = 0;
    const auto failing = done.then([&]() -> int {
      ++failures;
      throw std::runtime_error("no number");
    });
    EXPECT_THROW(failing.wait(), std::runtime_error);
    EXPECT_THROW(failing.wait(), std::runtime_error) << "forgotten";
    EXPECT_EQ(failures, 1) << "tried again";
    EXPECT_TRUE(failing.is_completed());
    EXPECT_THROW(failing.then([](int value) { return value; }).wait(), std::runtime_error);
    const auto ready = make_future(std::string("here"));
    EXPECT_TRUE(ready.is_completed());
    EXPECT_EQ(ready.wait(), "here");
    group->close();
  });
}

TEST(Futures, TakeADeadlineOfTheirOwn) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    const auto sum = group->all_reduce(torch::ones({1})).then([] { return 1; });
    EXPECT_FALSE(sum.is_completed());
    sum.wait(milliseconds(100));
  });
  expect_error<TimeoutError>(errors[0], "rank 1");
}

TEST_P(WorkOfRanks, SeveralCallsAreOneWork) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const int ranks = group->size();
    const int next = (group->rank() + 1) % ranks;
    const int previous = (group->rank() + ranks - 1) % ranks;
    const auto sum = torch::ones({1000});
    const auto from_root = torch::full({5}, group->rank());
    const auto sent = torch::full({7}, group->rank());
    const auto received = torch::full({7}, -1);
    Work all = group->coalesced([&] {
      group->all_reduce(sum);
      group->broadcast(from_root, ranks - 1);
      if (ranks == 1) return;
      group->send(sent, next);
      group->recv(received, previous);
    });
    all.wait();
    EXPECT_TRUE(all.is_completed());
    EXPECT_EQ(all.exception(), nullptr);
    EXPECT_EQ(sum[999].item<int>(), ranks);
    EXPECT_EQ(from_root[4].item<int>(), ranks - 1);
    if (ranks > 1) {
      EXPECT_EQ(received[6].item<int>(), previous);
    }
    group->coalesced([] {}).wait();
    group->close();
  });
}

TEST(Coalesced, PassesOnWhatItsCallsThrow) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    EXPECT_THROW(group->coalesced([&] {
      group->all_reduce(torch::ones({4, 4}).slice(1, 0, 2));
    }),
                 c10::Error);
    EXPECT_THROW(group->coalesced([&] { group->coalesced([] {}); }), c10::Error);
    const auto tensor = torch::ones({1});
    group->coalesced([&] { group->all_reduce(tensor); }).wait();
    EXPECT_EQ(tensor.item<int>(), 2);
    group->close();
  });
}

TEST(Coalesced, AreCompleteWhenAllTheirCallsAre) {
  std::atomic<bool> is_reduced{false};
  Signal is_looked_at("until rank 1 had looked at its calls");
  run_ranks_or_throw(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto message = torch::full({4}, group->rank());
    const auto sum = torch::ones({3});
    if (group->rank() == 0) {
      group->all_reduce(sum).wait();
      is_reduced = true;
      is_looked_at.wait();
      group->send(message, 1).wait();
    } else {
      Work both = group->coalesced([&] {
        group->recv(message, 0);
        group->all_reduce(sum);
      });
      EXPECT_TRUE(happens([&] {
        EXPECT_FALSE(both.is_completed());
        return is_reduced.load();
      }));
      for (int i = 0; i < 10; ++i) EXPECT_FALSE(both.is_completed()) << "no message was sent yet";
      is_looked_at.give();
      both.wait();
      EXPECT_EQ(message[3].item<int>(), 0);
      EXPECT_EQ(sum[2].item<int>(), 2);
    }
    group->close();
  });
}

/// The seconds of "timed out after 0.7 s".
double seconds_until_timeout(const std::string& text) {
  const std::string start = "timed out after ";
  const auto at = text.find(start);
  return at == std::string::npos ? 0 : std::stod(text.substr(at + start.size()));
}

// The first takes half of the time, so less than all of it is left for the second.
TEST(Coalesced, HaveOneTimeoutTogether) {
  expect_with_some_limit([](milliseconds limit) {
    Signal is_waiting("until rank 1 began to wait");
    Signal is_over("until rank 1 had given up");
    const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
      const auto first = torch::ones({1});
      const auto second = torch::ones({1});
      if (group->rank() == 0) {
        is_waiting.wait();
        std::this_thread::sleep_for(limit / 2);
        group->send(first, 1).wait();
        return is_over.wait();
      }
      const SignalAtEnd end(is_over);
      Work both = group->coalesced([&] {
        group->recv(first, 0);
        group->recv(second, 0, 1);
      });
      is_waiting.give();
      both.wait(limit);
    });
    const std::string text = text_of(errors[1]);
    const double seconds = seconds_until_timeout(text);
    const bool is_the_second = text.find("with tag 1") != std::string::npos;
    const bool is_less = seconds < 0.9 * std::chrono::duration<double>(limit).count();
    return is_the_second && seconds > 0 && is_less ? "" : text;
  });
}

TEST(Coalesced, FailsWhenOneOfItsCallsFails) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto good = torch::ones({1});
    const auto bad = torch::ones({group->rank() + 1});
    Work all = group->coalesced([&] {
      group->all_reduce(good);
      group->all_reduce(bad);
    });
    EXPECT_TRUE(happens([&] { return all.is_completed(); }));
    EXPECT_NE(all.exception(), nullptr);
    all.wait();
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "rank 1 called all_reduce");
}

TEST(CallNames, StandInMismatches) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto scope = group->with(CallOptions().name(group->rank() == 0 ? "loss" : "accuracy"));
    group->all_reduce(torch::ones({1})).wait();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 0 called all_reduce (Sum) of 1 x Float named 'loss'");
    expect_error<MismatchError>(error, "named 'accuracy'");
  }
}

TEST(CallNames, AreComparedWhereTheyAreTooLongToShow) {
  const std::string long_name(100, 'x');
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto scope = group->with(CallOptions().name(long_name + std::to_string(group->rank())));
    group->barrier();
  });
  for (const auto& error : errors)
    expect_error<MismatchError>(error, "rank 1 called barrier named");
}

TEST(CallNames, EndWithTheirScope) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    {
      const auto outer = group->with(CallOptions().name("outer"));
      const auto inner = group->with(CallOptions().timeout(kRankTimeout));
      group->barrier();
    }
    if (group->rank() == 0) {
      const auto scope = group->with(CallOptions().name("mine alone"));
    }
    group->barrier();  // fails if that name were still there
    EXPECT_THROW(static_cast<void>(group->with(CallOptions().timeout(milliseconds(0)))),
                 c10::Error);
    group->close();
  });
}

TEST(CallNames, AndDeadlinesStayInScopesWithin) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto outer = group->with(CallOptions().name(group->rank() == 0 ? "this" : "that"));
    const auto inner = group->with(CallOptions().timeout(kRankTimeout));
    group->barrier();
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "that");
  Signal is_over("until the other rank had given up");
  const auto late = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    const auto outer = group->with(CallOptions().timeout(milliseconds(200)));
    const auto inner = group->with(CallOptions().name("named"));
    group->all_reduce(torch::ones({3})).wait();
  });
  expect_error<TimeoutError>(late[0], " s, waiting since ");
}

TEST(AsyncBarriers, AreComparedLikeEveryCall) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto scope = group->with(CallOptions().name(group->rank() == 0 ? "start" : "end"));
    group->barrier_async().wait();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 0 called barrier named 'start'");
  }
  const auto others = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::ones({1});
    (group->rank() == 0 ? group->barrier_async() : group->all_reduce(tensor)).wait();
  });
  for (const auto& error : others)
    expect_error<MismatchError>(error, "rank 0 called barrier, rank 1");
}

TEST(AsyncBarriers, HaveTheDeadlineOfTheirCall) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    Work work = [&] {
      const auto scope = group->with(CallOptions().timeout(milliseconds(200)));
      return group->barrier_async();
    }();
    work.wait();
  });
  expect_error<TimeoutError>(errors[0], "barrier");
  expect_error<TimeoutError>(errors[0], " UTC: rank 1");
}

TEST(CallTimeouts, ReplaceTheGroups) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    const auto scope = group->with(CallOptions().timeout(milliseconds(200)));
    group->barrier();
  });
  expect_error<TimeoutError>(errors[0], " s, waiting since ");
  expect_error<TimeoutError>(errors[0], " UTC: rank 1");
}

}  // namespace
}  // namespace lockstep::testing
