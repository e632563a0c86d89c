// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "ensemble_test_support.h"
#include "support/expected_errors.h"
#include "support/forks.h"

namespace lockstep::inference {
namespace {

using lockstep::testing::expect_refusal;
using testing::failure_of;
using testing::Gate;
using testing::happens;
using testing::numbers;
using testing::SmallNet;
using testing::stopping;
using testing::times;
using namespace std::chrono_literals;

class EnsembleKinds : public ::testing::TestWithParam<std::tuple<WorkerKind, int>> {
 protected:
  static EnsembleOptions options() { return EnsembleOptions().kind(std::get<0>(GetParam())); }
  static int members() { return std::get<1>(GetParam()); }
};

TEST_P(EnsembleKinds, AnswersHaveTheBitsOfMembersCalledOneAfterAnother) {
  const int before = at::get_num_threads();
  const auto threads_of_a_new_thread = [] {
    int threads = 0;
    std::thread([&] { threads = at::get_num_threads(); }).join();
    return threads;
  };
  const int before_elsewhere = threads_of_a_new_thread();
  std::vector<Member> all;
  for (int index = 0; index < members(); ++index) {
    all.push_back(member("net" + std::to_string(index), [index] {
                    return SmallNet(static_cast<std::uint64_t>(index));
                  }).copies(index == 1 ? 2 : 1));
  }
  Ensemble ensemble(all,
                    options().combine(mean_of_probabilities()).sample(torch::ones({2, 1, 8, 8})));
  EXPECT_TRUE(ensemble.ready());
  EXPECT_EQ(at::get_num_threads(), before);
  EXPECT_EQ(threads_of_a_new_thread(), before_elsewhere);
  torch::manual_seed(99);
  std::vector<torch::Tensor> inputs;
  std::vector<PendingAnswer> pending;
  for (int request = 0; request < 20; ++request) {
    inputs.push_back(torch::randn({1 + request % 3, 1, 8, 8}));
    pending.push_back(ensemble.submit(inputs.back()));
  }
  at::set_num_threads(1);
  const torch::NoGradGuard guard;
  std::vector<SmallNet> nets;
  for (int index = 0; index < members(); ++index) {
    nets.emplace_back(static_cast<std::uint64_t>(index));
    nets.back()->eval();
  }
  for (std::size_t request = 0; request < inputs.size(); ++request) {
    torch::Tensor sum;
    for (auto& net : nets) {
      const auto part = net->forward(inputs[request]).softmax(-1);
      sum = sum.defined() ? sum + part : part;
    }
    const auto answer = pending[request].get();
    EXPECT_TRUE(torch::equal(answer.output, sum / members())) << "request " << request;
    EXPECT_TRUE(answer.missing.empty());
    EXPECT_EQ(pending[request].number(), request + 1);
    EXPECT_FALSE(answer.output.requires_grad());
  }
  at::set_num_threads(before);
}

TEST_P(EnsembleKinds, AnyDenseTensorGoesThroughASlotAndBack) {
  std::vector<Member> all;
  for (int index = 0; index < members(); ++index) {
    all.push_back(
        member("same" + std::to_string(index), [] { return [](torch::Tensor x) { return x; }; }));
  }
  // The first member's output as it is, and slots that are used again and again.
  Ensemble ensemble(all, options().queue(2).combine(
                             [](const std::vector<torch::Tensor>& outputs) { return outputs[0]; }));
  const auto square = numbers(0, {6, 6});
  const std::vector<torch::Tensor> inputs{square,
                                          torch::tensor(3.5),
                                          torch::empty({0, 4}),
                                          square.t(),
                                          square.slice(1, 1, 6, 2),
                                          square.expand({3, 6, 6}),
                                          torch::arange(3'000'000),
                                          torch::tensor({true, false}),
                                          torch::arange(5, torch::kInt8),
                                          torch::ones({2, 1, 2, 1, 2, 1, 2, 1}, torch::kHalf),
                                          torch::full({3}, 0.1, torch::kBFloat16),
                                          torch::complex(square, -square),
                                          torch::complex(square, square).conj(),
                                          square};
  for (const auto& input : inputs) {
    auto pending = ensemble.submit(input);
    const auto output = pending.get().output;
    EXPECT_EQ(output.scalar_type(), input.scalar_type());
    EXPECT_TRUE(torch::equal(output, input.resolve_conj())) << input.sizes();
    EXPECT_TRUE(torch::equal(pending.get().output, output)) << "a second get()";
  }
  EXPECT_EQ(ensemble.statistics().in_flight, 0U);
  expect_refusal([&] { static_cast<void>(ensemble.submit(torch::Tensor())); }, "undefined");
  expect_refusal(
      [&] {
        static_cast<void>(ensemble.submit(torch::ones({2, 2}).to_sparse()));
      },
      "it must be dense");
  expect_refusal(
      [&] {
        static_cast<void>(ensemble.submit(torch::ones({1, 1, 1, 1, 1, 1, 1, 1, 1})));
      },
      "has 9 dimensions");
  EXPECT_EQ(ensemble.statistics().in_flight, 0U);
}

TEST_P(EnsembleKinds, SeveralThreadsSubmit) {
  std::vector<Member> all;
  for (int index = 0; index < members(); ++index) {
    all.push_back(times("m" + std::to_string(index), index + 1).copies(2));
  }
  Ensemble ensemble(all, options()
                             .queue(3)
                             .when_full(WhenFull::Wait)
                             .combine([](const std::vector<torch::Tensor>& outputs) {
                               return torch::stack(outputs);
                             }));
  constexpr int kThreads = 4;
  constexpr int kRequests = 60;
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int request = 0; request < kRequests; ++request) {
        const auto input = numbers(static_cast<float>(1000 * thread + request));
        const auto output = ensemble.submit(input).get().output;
        bool is_right = output.size(0) == members();
        for (int index = 0; index < members(); ++index) {
          is_right = is_right && torch::equal(output[index], input * (index + 1));
        }
        if (is_right) ++right;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads * kRequests);
  const auto statistics = ensemble.statistics();
  EXPECT_EQ(statistics.answered, static_cast<std::uint64_t>(kThreads * kRequests));
  EXPECT_EQ(statistics.in_flight, 0U);
}

TEST_P(EnsembleKinds, ACallThatThrowsIsThatRequestsErrorAndTheMemberLives) {
  std::vector<Member> all;
  for (int index = 0; index < members(); ++index) {
    all.push_back(member("m" + std::to_string(index), [index] {
      return [index](torch::Tensor x) {
        if (index == 0 && x[0].item<float>() < 0) throw std::out_of_range("below zero");
        return x;
      };
    }));
  }
  Ensemble ensemble(all, options());
  const auto pids = ensemble.statistics().members[0].pids;
  EXPECT_EQ(failure_of(ensemble.submit(torch::tensor({-1.0F})),
                       "the quorum is " + std::to_string(members()) +
                           ": m0 threw std::out_of_range: below zero"),
            EnsembleFailure::MemberFailed);
  EXPECT_TRUE(
      torch::equal(ensemble.submit(torch::tensor({1.0F})).get().output, torch::tensor({1.0F})));
  EXPECT_EQ(ensemble.statistics().members[0].pids, pids);
  EXPECT_EQ(ensemble.statistics().members[0].failed, 1U);
  EXPECT_EQ(ensemble.statistics().failed, 1U);
}

TEST_P(EnsembleKinds, CloseAnswersWhatIsUnderWayAndLeavesNothing) {
  const auto open_files = [] {
    std::set<std::string> targets;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      targets.insert(std::filesystem::read_symlink(entry, error).string());
    }
    std::erase_if(targets,
                  [](const auto& target) { return target.find("lockstep") == std::string::npos; });
    return targets;
  };
  const auto before = open_files();
  std::vector<int> pids;
  {
    const Gate gate;
    std::vector<Member> all;
    for (int index = 0; index < members(); ++index) {
      all.push_back(member("m" + std::to_string(index), [&gate] { return gate.model(); }));
    }
    Ensemble ensemble(all, options());
    for (const auto& one : ensemble.statistics().members) {
      pids.insert(pids.end(), one.pids.begin(), one.pids.end());
    }
    auto done = ensemble.submit(numbers(1));
    ASSERT_TRUE(happens([&] { return done.ready(); }));
    auto stuck = ensemble.submit(stopping());
    auto queued = ensemble.submit(numbers(2));
    ASSERT_TRUE(gate.waits_for_somebody());
    if (std::get<0>(GetParam()) == WorkerKind::Thread) {
      std::thread opener([&] { gate.open(); });
      ensemble.close();
      opener.join();
      // Closed in the middle, or through before that; never without an end.
      for (auto* pending : {&stuck, &queued}) {
        try {
          EXPECT_EQ(pending->get().output.numel(), 4);
        } catch (const EnsembleError& error) {
          EXPECT_EQ(error.failure(), EnsembleFailure::Closed);
        }
      }
    } else {
      ensemble.close();
      EXPECT_EQ(failure_of(std::move(stuck), "had not answered before close()"),
                EnsembleFailure::Closed);
      EXPECT_EQ(failure_of(std::move(queued), "had not answered before close()"),
                EnsembleFailure::Closed);
    }
    EXPECT_TRUE(torch::equal(done.get().output, numbers(1)));
    EXPECT_FALSE(ensemble.ready());
    try {
      static_cast<void>(ensemble.submit(numbers(3)));
      ADD_FAILURE();
    } catch (const EnsembleError& error) {
      EXPECT_EQ(error.failure(), EnsembleFailure::Closed);
    }
    ensemble.close();
  }
  for (const int pid : pids) {
    if (pid == ::getpid()) continue;
    EXPECT_TRUE(happens([&] { return testing::has_ended(pid); }));
  }
  EXPECT_EQ(open_files(), before);
}

INSTANTIATE_TEST_SUITE_P(
    , EnsembleKinds,
    ::testing::Combine(::testing::Values(WorkerKind::Process, WorkerKind::Thread),
                       ::testing::Values(1, 2, 3)),
    [](const auto& kind) {
      return std::string(std::get<0>(kind.param) == WorkerKind::Process ? "Processes" : "Threads") +
             std::to_string(std::get<1>(kind.param));
    });

TEST(Ensemble, BadMembersAndOptionsAreRefused) {
  const auto expect = [](std::vector<Member> members, const EnsembleOptions& options,
                         const std::string& part) {
    expect_refusal([&] { const Ensemble ensemble(std::move(members), options); }, part);
  };
  const EnsembleOptions none;
  expect({}, none, "it has no members");
  expect({times("", 1)}, none, "a member has no name");
  expect({times("a", 1), times("a", 2)}, none, "two members have the name a");
  expect({Member("a", nullptr)}, none, "member a has no factory");
  expect({times("a", 1).copies(0)}, none, "member a has 0 copies");
  expect({times("a", 1).copies(200), times("b", 1).copies(56)}, none, "more than 255 copies");
  expect({times("a", 1).threads(0)}, none, "member a has 0 threads");
  expect({times("a", 1)}, EnsembleOptions().quorum(2),
         "quorum is 2; it must be from 1 to the number of members, 1");
  expect({times("a", 1)}, EnsembleOptions().max_batch(0), "max_batch is 0");
  expect({times("a", 1)}, EnsembleOptions().queue(0), "queue is 0");
  expect({times("a", 1), times("b", 1), times("c", 1), times("d", 1)},
         EnsembleOptions().queue(10001), "with 4 members it must be from 1 to 10000");
  expect({times("a", 1), times("b", 1)}, EnsembleOptions().combine(weighted({1, 2, 3})),
         "combine has weights for 3 members, and the ensemble has 2");
  expect({times("a", 1)}, EnsembleOptions().max_delay(std::chrono::microseconds::max()),
         "more than a year");
  expect({times("a", 1)}, EnsembleOptions().deadline(0ms), "deadline is 0 ms");
  expect({times("a", 1)}, EnsembleOptions().member_timeout(0ms), "member_timeout is 0 ms");
  expect({times("a", 1)}, EnsembleOptions().start_timeout(0ms), "start_timeout is 0 ms");
  expect({times("a", 1)}, EnsembleOptions().restart_pause(-1ms), "restart_pause is -1 ms");
  expect({times("a", 1)}, EnsembleOptions().max_delay(-1us), "max_delay is -1 us");
  expect({times("a", 1)}, EnsembleOptions().kind(WorkerKind::Spawn), "kind is Spawn");
  expect({times("a", 1)}, EnsembleOptions().sample(torch::ones({2, 2}).to_sparse()),
         "it must be dense");
}

TEST(Ensemble, WhatWasMovedFromSaysSo) {
  Ensemble first({times("a", 2)});
  auto pending = first.submit(numbers(1));
  Ensemble second = std::move(first);
  auto moved = std::move(pending);
  expect_refusal([&] { static_cast<void>(pending.get()); }, "PendingAnswer: it was moved from");
  expect_refusal([&] { static_cast<void>(first.ready()); }, "Ensemble: it was moved from");
  EXPECT_TRUE(torch::equal(moved.get().output, numbers(1) * 2));
  second = Ensemble({times("b", 3)});  // closes the one before
  EXPECT_TRUE(torch::equal(second.submit(numbers(1)).get().output, numbers(1) * 3));
  EXPECT_TRUE(torch::equal(moved.get().output, numbers(1) * 2));
}

TEST(Ensemble, AForkOfTheProgramLeavesItAlone) {
  auto ensemble = std::make_unique<Ensemble>(std::vector<Member>{times("a", 2)});
  auto pending = std::make_unique<PendingAnswer>(ensemble->submit(numbers(1)));
  lockstep::testing::run_in_fork([&] {
    bool is_refused = false;
    try {
      static_cast<void>(ensemble->submit(numbers(2)));
    } catch (const c10::Error&) {
      is_refused = true;
    }
    if (!is_refused) throw std::runtime_error("not refused");
    ensemble->close();
    pending.reset();
    ensemble.reset();
  });
  EXPECT_TRUE(torch::equal(pending->get().output, numbers(1) * 2));
  EXPECT_TRUE(torch::equal(ensemble->submit(numbers(2)).get().output, numbers(2) * 2));
}

}  // namespace
}  // namespace lockstep::inference
