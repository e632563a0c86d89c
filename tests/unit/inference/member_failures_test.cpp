// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include "ensemble_test_support.h"
#include "support/some_limit.h"

namespace lockstep::inference {
namespace {

using testing::happens;
using testing::has_ended;
using testing::numbers;
using testing::SharedNumbers;
using testing::times;
using namespace std::chrono_literals;

constexpr float kFatal = -13;

// Ends its process at an input that contains kFatal, for as long as `lives` is above 0.
Member fragile(const std::string& name, const SharedNumbers& lives, void (*end)()) {
  return member(name, [&lives, end] {
    return [&lives, end](torch::Tensor x) {
      if ((x == kFatal).any().item<bool>() && lives[0].fetch_sub(1) > 0) end();
      return x * 2;
    };
  });
}
void kill_self() {
  ::kill(::getpid(), SIGKILL);
  std::this_thread::sleep_for(1min);
}
torch::Tensor fatal() {
  return torch::full({1, 4}, kFatal);
}
EnsembleOptions quick() {
  return EnsembleOptions().restart_pause(1ms).longest_restart_pause(2ms);
}

TEST(MemberFailures, ARequestIsTriedOnceMoreWhenItsMemberDied) {
  const SharedNumbers lives;
  lives[0] = 1;
  Ensemble ensemble({fragile("a", lives, kill_self), times("b", 4)}, quick());
  const auto answer = ensemble.submit(fatal()).get();
  EXPECT_TRUE(answer.missing.empty());
  EXPECT_TRUE(torch::equal(answer.output, fatal() * 3));
  EXPECT_EQ(ensemble.statistics().members[0].restarts, 1U);
  EXPECT_EQ(ensemble.statistics().members[1].restarts, 0U);
}

TEST(MemberFailures, ARequestThatEndsAMemberTwiceIsRefused) {
  const SharedNumbers lives;
  lives[0] = 4;
  Ensemble all({fragile("a", lives, kill_self), times("b", 4)}, quick());
  try {
    static_cast<void>(all.submit(fatal()).get());
    ADD_FAILURE() << "no error";
  } catch (const EnsembleError& error) {
    EXPECT_EQ(error.failure(), EnsembleFailure::Poison);
    EXPECT_EQ(error.missing(), std::vector<std::string>{"a"});
    const std::string text = error.what();
    EXPECT_NE(text.find("request 1 is refused as poison"), std::string::npos) << text;
    EXPECT_NE(text.find("a ended two processes with it: the last, pid "), std::string::npos)
        << text;
    EXPECT_NE(text.find("was killed by signal 9 (Killed)"), std::string::npos) << text;
  }
  EXPECT_EQ(lives[0], 2);  // it was not tried a third time
  EXPECT_TRUE(torch::equal(all.submit(numbers(1)).get().output, numbers(1) * 3));
  // With a smaller quorum, the others answer.
  lives[0] = 2;
  Ensemble one({fragile("a", lives, [] { ::_exit(3); }), times("b", 4)}, quick().quorum(1));
  const auto answer = one.submit(fatal()).get();
  EXPECT_TRUE(torch::equal(answer.output, fatal() * 4));
  ASSERT_EQ(answer.missing, std::vector<std::string>{"a"});
  EXPECT_NE(answer.reasons[0].find("exited with status 3"), std::string::npos) << answer.reasons[0];
}

TEST(MemberFailures, APoisonedRequestTakesNoOtherOfItsBatchAlong) {
  const SharedNumbers lives;
  lives[0] = 2;
  Ensemble ensemble({fragile("a", lives, kill_self)},
                    quick().max_batch(4).max_delay(10min).deadline(20min));
  std::vector<PendingAnswer> pending;
  for (const float value : {1.0F, 2.0F, kFatal, 4.0F}) {
    pending.push_back(ensemble.submit(torch::full({1, 4}, value)));
  }
  for (const std::size_t request : {0U, 1U, 3U}) {
    EXPECT_TRUE(torch::equal(pending[request].get().output,
                             torch::full({1, 4}, 2.0F * static_cast<float>(request + 1))));
  }
  EXPECT_THROW(static_cast<void>(pending[2].get()), EnsembleError);
}

TEST(MemberFailures, AMemberThatHangsIsKilledAndNamed) {
  lockstep::testing::expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    const SharedNumbers lives;
    lives[0] = 2;
    Ensemble ensemble({fragile("a", lives, [] { std::this_thread::sleep_for(1h); }), times("b", 4)},
                      quick().member_timeout(timeout).start_timeout(1min));
    try {
      static_cast<void>(ensemble.submit(fatal()).get());
      return "no error";
    } catch (const EnsembleError& error) {
      if (std::string(error.what())
              .find("took longer than the member_timeout of " + std::to_string(timeout.count()) +
                    " ms, and was killed") == std::string::npos) {
        return error.what();
      }
    }
    return torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 3) ? "" : "wrong";
  });
}

TEST(MemberFailures, AMemberThatWritesToItsInputChangesNoOthers) {
  const auto writing = [] { return [](torch::Tensor x) { return x.add_(1); }; };
  Ensemble processes({member("a", writing), times("b", 1), times("c", 1)}, quick().quorum(2));
  auto answer = processes.submit(numbers(1)).get();
  ASSERT_EQ(answer.missing, std::vector<std::string>{"a"});
  EXPECT_NE(answer.reasons[0].find("a model that writes to its input"), std::string::npos)
      << answer.reasons[0];
  EXPECT_TRUE(torch::equal(answer.output, numbers(1)));
  // With a sample, it does not come that far.
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const auto form : {BatchForm::Rows, BatchForm::Samples}) {
      try {
        const Ensemble warm({member("a", writing)},
                            quick().kind(kind).batch_form(form).sample(numbers(1)));
        ADD_FAILURE() << "no error";
      } catch (const EnsembleError& error) {
        EXPECT_EQ(error.failure(), EnsembleFailure::NotStarted);
        EXPECT_NE(std::string(error.what()).find("the model writes to its input"),
                  std::string::npos)
            << error.what();
      }
    }
  }
  Ensemble threads({member("a", writing)}, EnsembleOptions().kind(WorkerKind::Thread));
  try {
    static_cast<void>(threads.submit(numbers(1)).get());
    ADD_FAILURE() << "no error";
  } catch (const EnsembleError& error) {
    EXPECT_NE(std::string(error.what()).find("the model writes to its input"), std::string::npos)
        << error.what();
  }
}

TEST(MemberFailures, AMemberThatCannotBeMadeIsAnErrorOfTheConstructor) {
  const auto text_of = [](Member broken, EnsembleOptions options) -> std::string {
    try {
      const Ensemble ensemble({times("good", 1), std::move(broken)}, std::move(options));
    } catch (const EnsembleError& error) {
      EXPECT_EQ(error.failure(), EnsembleFailure::NotStarted);
      EXPECT_EQ(error.missing(), std::vector<std::string>{"bad"});
      return error.what();
    }
    return "no error";
  };
  const auto throwing = member("bad", []() -> std::function<torch::Tensor(torch::Tensor)> {
    throw std::runtime_error("no weights");
  });
  const auto refusing = member("bad", []() -> std::function<torch::Tensor(torch::Tensor)> {
    TORCH_CHECK(false, "no weights\nat all");
  });
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    const int threads = at::get_num_threads();
    EXPECT_EQ(text_of(throwing, quick().kind(kind)),
              "Ensemble: member bad could not be started: std::runtime_error: no weights");
    EXPECT_EQ(at::get_num_threads(), threads);
    int threads_elsewhere = 0;
    std::thread([&] { threads_elsewhere = at::get_num_threads(); }).join();
    EXPECT_EQ(threads_elsewhere, threads);
    // One line, without a backtrace.
    EXPECT_EQ(text_of(refusing, quick().kind(kind)),
              "Ensemble: member bad could not be started: c10::Error: no weights at all");
  }
  const auto leaving =
      member("bad", []() -> std::function<torch::Tensor(torch::Tensor)> { ::_exit(7); });
  EXPECT_NE(text_of(leaving, quick()).find("its process exited with status 7"), std::string::npos);
  const auto first_call = member("bad", [] { return torch::nn::Linear(3, 2); });
  EXPECT_NE(text_of(first_call, quick().sample(torch::ones({1, 4}))).find("c10::Error"),
            std::string::npos);
}

// A file that is being replaced, say: what cannot be made now can be made later.
TEST(MemberFailures, AMemberThatCannotBeMadeAgainIsTriedUntilItCan) {
  const SharedNumbers starts;
  const auto choosy = member("a", [&starts]() -> std::function<torch::Tensor(torch::Tensor)> {
    if (starts[0]++ > 0 && starts[1] == 0) throw std::runtime_error("the file is gone");
    return [](torch::Tensor x) {
      if ((x == kFatal).any().item<bool>()) kill_self();
      return x;
    };
  });
  Ensemble ensemble({choosy, times("b", 3)}, quick().quorum(1).deadline(10min));
  const auto answer = ensemble.submit(fatal()).get();
  ASSERT_EQ(answer.missing, std::vector<std::string>{"a"});
  ASSERT_TRUE(happens([&] { return starts[0] > 6; }));
  EXPECT_TRUE(ensemble.ready());
  const auto partial = ensemble.submit(numbers(1)).get();
  EXPECT_TRUE(torch::equal(partial.output, numbers(1) * 3));
  ASSERT_EQ(partial.missing, std::vector<std::string>{"a"});
  EXPECT_EQ(partial.reasons[0],
            "is being started again; its last process said: std::runtime_error: the file is gone");
  starts[1] = 1;
  ASSERT_TRUE(happens([&] { return ensemble.statistics().members[0].ready_copies == 1; }));
  EXPECT_TRUE(torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 2));
  // Below the quorum it is not ready, and requests wait until their deadline.
  starts[0] = starts[1] = 0;
  Ensemble all({choosy, times("b", 3)}, quick().deadline(500ms));
  EXPECT_TRUE(all.ready());
  const auto text_of = [](PendingAnswer pending) -> std::string {
    try {
      static_cast<void>(pending.get());
    } catch (const EnsembleError& error) {
      EXPECT_EQ(error.failure(), EnsembleFailure::Deadline);
      return error.what();
    }
    return "no error";
  };
  // Not by a request, which is over if a does not begin before the deadline.
  ::kill(all.statistics().members[0].pids[0], SIGKILL);
  ASSERT_TRUE(happens([&] { return starts[0] > 1 && !all.ready(); }));
  EXPECT_NE(text_of(all.submit(numbers(1)))
                .find("a had not begun within 500 ms; it is being started again; its last process"),
            std::string::npos);
}

TEST(MemberFailures, AQuorumDoesNotWaitForAMemberThatIsBeingStarted) {
  const SharedNumbers starts;
  const auto slow = member("a", [&starts] {
    // The second one takes until the test lets it go.
    if (starts[0]++ > 0) happens([&] { return starts[1] != 0; });
    return [](torch::Tensor x) { return x; };
  });
  Ensemble ensemble({slow, times("b", 3)}, quick().quorum(1).deadline(10min));
  ::kill(ensemble.statistics().members[0].pids[0], SIGKILL);
  ASSERT_TRUE(happens([&] { return starts[0] == 2; }));
  for (int request = 0; request < 3; ++request) {
    const auto answer = ensemble.submit(numbers(1)).get();
    EXPECT_TRUE(torch::equal(answer.output, numbers(1) * 3));
    ASSERT_EQ(answer.missing, std::vector<std::string>{"a"});
    EXPECT_EQ(answer.reasons[0],
              "is being started again; its last process was killed by signal 9 (Killed)");
  }
  EXPECT_EQ(starts[1], 0);
  starts[1] = 1;
  ASSERT_TRUE(happens([&] { return ensemble.statistics().members[0].ready_copies == 1; }));
  EXPECT_TRUE(torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 2));
}

TEST(MemberFailures, AMemberThatHangsBeyondTheDeadlineComesBack) {
  const SharedNumbers lives;
  lives[0] = 1;
  Ensemble ensemble({fragile("a", lives, [] { std::this_thread::sleep_for(1h); })},
                    quick().deadline(200ms).member_timeout(1s).start_timeout(1min));
  // More than once where the member did not come to it before the deadline.
  do {
    EXPECT_THROW(static_cast<void>(ensemble.submit(fatal()).get()), EnsembleError);
  } while (lives[0] > 0);
  EXPECT_TRUE(happens([&] {
    try {
      return torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 2);
    } catch (const EnsembleError&) {
      return false;
    }
  }));
  EXPECT_GE(ensemble.statistics().members[0].restarts, 1U);
}

TEST(MemberFailures, PausesBeforeRestartsGrow) {
  Ensemble ensemble({times("a", 2)},
                    EnsembleOptions().restart_pause(200ms).longest_restart_pause(300ms));
  const auto begin = std::chrono::steady_clock::now();
  for (int end = 0; end < 4; ++end) {
    const int pid = ensemble.statistics().members[0].pids[0];
    ::kill(pid, SIGKILL);
    ASSERT_TRUE(happens([&] {
      const auto one = ensemble.statistics().members[0];
      return one.pids[0] != pid && one.ready_copies == 1;
    }));
  }
  // None, 200, 300 and 300.
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 800ms);
  EXPECT_TRUE(torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 2));
}

TEST(MemberFailures, WithoutTheParentOfTheMembersTheEnsembleIsLost) {
  const testing::Gate gate;
  Ensemble ensemble({member("a", [&] { return gate.model(); })});
  const int pid = ensemble.statistics().members[0].pids[0];
  auto pending = ensemble.submit(testing::stopping());
  ASSERT_TRUE(gate.waits_for_somebody());
  ::kill(testing::parent_of(pid), SIGKILL);
  try {
    static_cast<void>(pending.get());
    ADD_FAILURE() << "no error";
  } catch (const EnsembleError& error) {
    EXPECT_EQ(error.failure(), EnsembleFailure::Lost);
    EXPECT_NE(std::string(error.what()).find("build a new ensemble"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(ensemble.ready());
  EXPECT_TRUE(happens([&] { return has_ended(pid); }));
}

TEST(MemberFailures, ALostEnsembleIsNotReadyAlsoWithoutRequests) {
  Ensemble ensemble({times("a", 1)});
  EXPECT_TRUE(ensemble.ready());
  ::kill(testing::parent_of(ensemble.statistics().members[0].pids[0]), SIGKILL);
  EXPECT_TRUE(happens([&] { return !ensemble.ready(); }));
}

TEST(MemberFailures, MembersEndWithTheProgramHoweverItEnds) {
  const SharedNumbers pids;
  const pid_t program = ::fork();
  if (program == 0) {
    ::alarm(100);
    Ensemble ensemble({times("a", 1).copies(2), times("b", 1)});
    auto pending = ensemble.submit(numbers(1));
    static_cast<void>(pending.get());
    std::size_t at = 0;
    for (const auto& one : ensemble.statistics().members) {
      for (const int pid : one.pids) pids[++at] = pid;
    }
    pids[++at] = testing::parent_of(pids[1]);
    pids[0] = 1;
    while (true) ::pause();
  }
  ASSERT_TRUE(happens([&] { return pids[0] == 1; }));
  ::kill(program, SIGKILL);
  ::waitpid(program, nullptr, 0);
  for (std::size_t at = 1; at <= 4; ++at) {
    EXPECT_TRUE(happens([&] { return has_ended(pids[at]); })) << at;
  }
}

// Kills members at random moments while several threads submit. Each request gets the answer of all
// members, an answer of those that it names as not missing, or an error, and exactly one of these.
class RandomKills : public ::testing::TestWithParam<int> {};

TEST_P(RandomKills, EachRequestIsAnsweredOnce) {
  const int members = GetParam();
  std::vector<Member> all;
  for (int index = 0; index < members; ++index) {
    all.push_back(times("m" + std::to_string(index), 1 << index).copies(index == 0 ? 2 : 1));
  }
  Ensemble ensemble(all, quick()
                             .quorum(1)
                             .queue(8)
                             .max_batch(3)
                             .when_full(WhenFull::Wait)
                             .combine([](const std::vector<torch::Tensor>& outputs) {
                               return torch::stack(outputs).sum(0);
                             }));
  constexpr int kThreads = 2;
  constexpr int kRequests = 300;
  std::atomic<int> full{0};
  std::atomic<int> partial{0};
  std::atomic<int> errors{0};
  std::atomic<int> wrong{0};
  std::atomic<int> finished{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int request = 0; request < kRequests; ++request) {
        const auto input = numbers(static_cast<float>(thread * kRequests + request), {1, 64});
        auto pending = ensemble.submit(input);
        try {
          const auto answer = pending.get();
          int factor = 0;
          for (int index = 0; index < members; ++index) {
            const auto name = "m" + std::to_string(index);
            const auto& missing = answer.missing;
            if (std::find(missing.begin(), missing.end(), name) == missing.end())
              factor += 1 << index;
          }
          if (!torch::equal(answer.output, input * factor)) ++wrong;
          ++(answer.missing.empty() ? full : partial);
        } catch (const EnsembleError& error) {
          if (error.failure() != EnsembleFailure::Poison) ++wrong;
          ++errors;
        }
      }
      ++finished;
    });
  }
  std::mt19937 random(7);
  do {  // also where all requests are answered before this thread gets a core
    const auto statistics = ensemble.statistics();
    const auto& one = statistics.members[random() % statistics.members.size()];
    const int pid = one.pids[random() % one.pids.size()];
    // One copy at least has become ready since the last time, so that the requests get on.
    if (one.ready_copies > 0) ::kill(pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
  } while (finished < kThreads);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(full, 0);
  EXPECT_TRUE(happens([&] { return ensemble.statistics().in_flight == 0; }));
  const auto statistics = ensemble.statistics();
  EXPECT_EQ(statistics.answered + statistics.failed,
            static_cast<std::uint64_t>(kThreads * kRequests));
  // The last one that was killed may still be there.
  EXPECT_TRUE(happens([&] {
    const auto now = ensemble.statistics().members;
    return std::any_of(now.begin(), now.end(), [](const auto& one) { return one.restarts > 0; });
  }));
}

INSTANTIATE_TEST_SUITE_P(Members, RandomKills, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace lockstep::inference
