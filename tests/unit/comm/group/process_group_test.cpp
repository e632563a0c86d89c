// SPDX-License-Identifier: BSD-3-Clause
// The shared-memory and the single backend with ranks as threads: results, misuse, and the world
// failing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/core/error.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "native/posix/file_descriptor.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/in_process_ranks.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;

class Ranks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, Ranks, ::testing::Values(1, 2, 3, 4));

TEST_P(Ranks, CollectivesMatchSumsMadeByHandInRankOrder) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    check_everything(*group);
    group->close();
  });
}

TEST_P(Ranks, GroupsFollowOneAnotherUnderOneJobId) {
  const int ranks = GetParam();
  const std::string job = unique_job_id();
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([=] {
      for (int i = 0; i < 20; ++i) {
        const auto group = init_process_group(ProcessGroupOptions()
                                                  .timeout(kRankTimeout)
                                                  .environment(fake_environment(rank, ranks, job)));
        const auto tensor = torch::ones({10});
        group->all_reduce(tensor).wait();
        EXPECT_EQ(tensor[9].item<float>(), static_cast<float>(ranks));
        group->close();
      }
    });
  }
}

TEST_P(Ranks, CloseReturnsWhenEveryRankHasCalledIt) {
  std::atomic<int> called{0};
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    std::this_thread::sleep_for(milliseconds(30 * group->rank()));
    ++called;
    group->close();
    EXPECT_EQ(called, group->size());
  });
}

TEST_P(Ranks, ForksOfARankMayOnlyLetItsGroupGo) {
  run_ranks_or_throw(GetParam(),
                     [](std::shared_ptr<ProcessGroup> group) { fork_and_work_on(group); });
}

TEST_P(Ranks, GroupMemoryOutlivesTheGroup) {
  run_ranks_or_throw(GetParam(), [](std::shared_ptr<ProcessGroup> group) {
    const auto tensor = group->allocate({5000}, torch::kFloat);
    tensor.fill_(2);
    group->all_reduce(tensor, ReduceOp::Avg).wait();
    group->close();
    group.reset();
    EXPECT_EQ(tensor.sum().item<float>(), 10000.0F);
  });
}

TEST_P(Ranks, TooMuchGroupMemoryIsAnErrorOnEveryRankAndTheGroupGoesOn) {
  if (GetParam() == 1) return;  // a world of one takes ordinary memory
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    try {
      [[maybe_unused]] const auto tensor = group->allocate({std::int64_t{1} << 45}, torch::kByte);
      ADD_FAILURE() << "no error";
    } catch (const CommError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("bytes wanted"), std::string::npos) << text;
      EXPECT_NE(text.find("free"), std::string::npos) << text;
    }
    const auto tensor = torch::ones({3});
    group->all_reduce(tensor).wait();
    EXPECT_EQ(tensor[0].item<float>(), static_cast<float>(group->size()));
    group->close();
  });
}

TEST_P(Ranks, MisuseIsRefusedBeforeAnythingIsSent) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    EXPECT_THROW(group->all_reduce(torch::Tensor()), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::ones({2}, torch::kMeta)), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::ones({2}, torch::kInt), ReduceOp::Avg), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::ones({2}, torch::kBool), ReduceOp::Avg), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::ones({2}).to_sparse()), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::ones({2}).expand({4, 2})), c10::Error);
    const auto conjugated = torch::ones({2}, torch::kComplexFloat).conj();
    EXPECT_THROW(group->broadcast(conjugated), c10::Error);
    EXPECT_THROW(group->all_reduce(torch::imag(conjugated)), c10::Error) << "negated";
    EXPECT_THROW(group->allocate({(std::int64_t{1} << 62) - 1}, torch::kFloat), c10::Error);
    EXPECT_THROW(group->broadcast(torch::ones({2}), -1), c10::Error);
    EXPECT_THROW(group->broadcast(torch::ones({2}), group->size()), c10::Error);
    EXPECT_THROW(group->all_gather(torch::ones({3, 100}), torch::ones({2})), c10::Error);
    EXPECT_THROW(group->all_gather(std::vector<torch::Tensor>(9), torch::ones({2})), c10::Error);
    const auto two = torch::ones({2});
    const auto ranks = static_cast<std::size_t>(group->size());
    const std::vector<torch::Tensor> pieces(ranks, two);
    EXPECT_THROW(group->reduce(two, group->size()), c10::Error);
    EXPECT_THROW(group->reduce(two, 0, ReduceOp::BitOr), c10::Error);
    EXPECT_THROW(group->reduce_scatter(two, torch::ones({2 * group->size() + 1})), c10::Error);
    EXPECT_THROW(group->reduce_scatter(torch::ones({3}), pieces), c10::Error);
    EXPECT_THROW(group->reduce_scatter(torch::ones({2}, torch::kInt), pieces), c10::Error);
    EXPECT_THROW(group->all_gather(pieces, two.to(torch::kInt)), c10::Error);
    EXPECT_THROW(group->all_gather(torch::ones({2 * group->size()}), two.narrow(0, 0, 1)),
                 c10::Error);
    if (ranks > 1) {
      const int other = (group->rank() + 1) % group->size();
      EXPECT_THROW(group->gather({two}, torch::ones({2}), other), c10::Error) << "not the root";
      EXPECT_THROW(group->scatter(torch::ones({2}), {two}, other), c10::Error) << "not the root";
      EXPECT_THROW(group->send(two, other, -1), c10::Error) << "a tag";
      EXPECT_THROW(group->send(two, other, 1 << 20), c10::Error) << "a tag";
    }
    EXPECT_THROW(group->gather({}, two, group->rank()), c10::Error);
    EXPECT_THROW(group->gather(pieces, torch::ones({3}), group->rank()), c10::Error);
    EXPECT_THROW(group->scatter(two, {}, group->rank()), c10::Error);
    EXPECT_THROW(group->scatter(torch::ones({3}), pieces, group->rank()), c10::Error);
    EXPECT_THROW(group->scatter(two, pieces, -1), c10::Error);
    EXPECT_THROW(group->all_to_all(two, two), c10::Error) << "they overlap";
    EXPECT_THROW(group->all_to_all(pieces, std::vector<torch::Tensor>(ranks + 1, two)), c10::Error);
    EXPECT_THROW(group->all_to_all(torch::ones({4}), two, {1, 1, 1, 1, 1}, {2}), c10::Error);
    EXPECT_THROW(group->all_to_all(torch::ones({2}), two, std::vector<std::int64_t>(ranks, 5),
                                   std::vector<std::int64_t>(ranks, 5)),
                 c10::Error);
    EXPECT_THROW(group->send(two, group->rank()), c10::Error) << "to oneself";
    EXPECT_THROW(group->recv(two, group->rank()), c10::Error) << "from oneself";
    EXPECT_THROW(group->recv(two, group->size()), c10::Error);
    EXPECT_THROW(static_cast<void>(group->allocate({-1}, torch::kFloat)), c10::Error);
    group->barrier();  // and nobody is out of step
    group->close();
    EXPECT_THROW(group->all_reduce(torch::ones({2})), c10::Error);
    EXPECT_THROW(static_cast<void>(group->allocate({1}, torch::kFloat)), c10::Error);
  });
}

void expect_mismatch(const std::function<void(ProcessGroup&, const torch::Tensor&)>& on_rank_0,
                     const std::function<void(ProcessGroup&, const torch::Tensor&)>& on_others,
                     const std::string& part) {
  const auto errors = run_ranks(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::full({8}, group->rank());
    const auto copy = tensor.clone();
    try {
      (group->rank() == 0 ? on_rank_0 : on_others)(*group, tensor);
    } catch (...) {
      EXPECT_TRUE(torch::equal(tensor, copy)) << "the tensor was touched";
      throw;
    }
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, part);
}

TEST(Mismatch, OfTheCollective) {
  expect_mismatch(
      [](ProcessGroup& group, const torch::Tensor& t) { group.all_reduce(t).wait(); },
      [](ProcessGroup& group, const torch::Tensor& t) { group.broadcast(t).wait(); },
      "rank 0 called all_reduce (Sum) of 8 x Long, rank 1 called broadcast from rank 0");
}

TEST(Mismatch, OfTheReduction) {
  expect_mismatch([](ProcessGroup& group, const torch::Tensor& t) { group.all_reduce(t).wait(); },
                  [](ProcessGroup& group, const torch::Tensor& t) {
                    group.all_reduce(t, ReduceOp::Max).wait();
                  },
                  "all_reduce (Max)");
}

TEST(Mismatch, OfTheNumberOfElements) {
  expect_mismatch([](ProcessGroup& group, const torch::Tensor& t) { group.all_reduce(t).wait(); },
                  [](ProcessGroup& group, const torch::Tensor& t) {
                    group.all_reduce(t.narrow(0, 0, 4)).wait();
                  },
                  "of 4 x Long");
}

TEST(Mismatch, OfTheDtype) {
  expect_mismatch([](ProcessGroup& group, const torch::Tensor& t) { group.all_reduce(t).wait(); },
                  [](ProcessGroup& group, const torch::Tensor&) {
                    group.all_reduce(torch::ones({8}, torch::kFloat)).wait();
                  },
                  "of 8 x Float");
}

TEST(Mismatch, OfTheRoot) {
  expect_mismatch([](ProcessGroup& group, const torch::Tensor& t) { group.broadcast(t, 1).wait(); },
                  [](ProcessGroup& group, const torch::Tensor& t) { group.broadcast(t, 2).wait(); },
                  "broadcast from rank 2");
}

TEST(Mismatch, OfTheMemoryOrder) {
  expect_mismatch(
      [](ProcessGroup& group, const torch::Tensor&) {
        group.all_reduce(torch::ones({2, 3})).wait();
      },
      [](ProcessGroup& group, const torch::Tensor&) {
        group.all_reduce(torch::ones({3, 2}).t()).wait();
      },
      "with strides, sizes or a factor of its own");
}

TEST(Mismatch, OfTheFactor) {
  expect_mismatch(
      [](ProcessGroup& group, const torch::Tensor&) {
        group.all_reduce(torch::ones({3}), ReduceOp::PreMulSum(2)).wait();
      },
      [](ProcessGroup& group, const torch::Tensor&) {
        group.all_reduce(torch::ones({3}), ReduceOp::PreMulSum(3)).wait();
      },
      "all_reduce (PreMulSum) of 3 x Float with strides, sizes or a factor of its own");
}

TEST(Mismatch, OfThePiecesOfAReduceScatter) {
  const auto scatter = [](ProcessGroup& group, std::int64_t last) {
    const std::vector<torch::Tensor> pieces{torch::ones({2}), torch::ones({4 - last}),
                                            torch::ones({last})};
    group.reduce_scatter(torch::zeros_like(pieces[static_cast<std::size_t>(group.rank())]), pieces)
        .wait();
  };
  expect_mismatch([&](ProcessGroup& group, const torch::Tensor&) { scatter(group, 1); },
                  [&](ProcessGroup& group, const torch::Tensor&) { scatter(group, 3); },
                  "reduce_scatter (Sum) of 6 x Float with strides, sizes");
}

TEST(Mismatch, OfWhatOneRankSendsAndAnotherExpects) {
  const auto exchange = [](ProcessGroup& group, const torch::Tensor& output, std::int64_t own) {
    group
        .all_to_all({output.narrow(0, 0, own), output.narrow(0, 3, 2), output.narrow(0, 5, 2)},
                    {torch::ones({2}, torch::kLong), torch::ones({2}, torch::kLong),
                     torch::ones({2}, torch::kLong)})
        .wait();
  };
  expect_mismatch([&](ProcessGroup& group, const torch::Tensor& t) { exchange(group, t, 2); },
                  [&](ProcessGroup& group, const torch::Tensor& t) { exchange(group, t, 1); },
                  "rank 0 sends 16 bytes to rank 1, which expects 8");
}

TEST(Mismatch, OfAMessageIsAnErrorOnBothSides) {
  const auto errors = run_ranks(3, [](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 0) group->send(torch::ones({10}), 1, 3).wait();
    if (group->rank() == 1) {
      const auto tensor = torch::zeros({8});
      try {
        group->recv(tensor, 0, 3).wait();
      } catch (...) {
        EXPECT_EQ(tensor.sum().item<float>(), 0.0F) << "the tensor was touched";
        throw;
      }
    }
    group->barrier();
  });
  expect_error<MismatchError>(errors[1],
                              "rank 0 sent a message of 10 x Float with tag 3, this rank expects a "
                              "message of 8 x Float with tag 3");
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    expect_error<PeerLostError>(errors[rank], "rank 0 sent a message of 10 x Float");
  }
}

TEST(Mismatch, OfTheListOfANewGroup) {
  const auto errors = run_ranks(3, [](const std::shared_ptr<ProcessGroup>& group) {
    static_cast<void>(group->new_group(group->rank() == 2 ? std::vector{0, 1} : std::vector{1, 0}));
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "rank 2 called another");
}

TEST(Failure, AMessageThatDoesNotComeIsNamedWhenTheDeadlinePasses) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    group->recv(torch::ones({4}), 1, 2).wait(milliseconds(100));
  });
  expect_error<TimeoutError>(errors[0], "rank 1");
  expect_error<TimeoutError>(errors[0], "has not sent a message of 4 x Float with tag 2");
}

TEST(Failure, AMessageThatNobodyReceivesIsNamedWhenTheDeadlinePasses) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    // Longer than any pipe.
    group->send(torch::ones({1 << 20}), 1).wait(milliseconds(100));
  });
  expect_error<TimeoutError>(errors[0], "does not receive; a message of 1048576 x Float");
}

TEST(Failure, ARankThatThrowsIsMissedByWhoWaitsForItsMessage) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    group->barrier();
    if (group->rank() == 1) throw std::runtime_error("out of luck");
    group->recv(torch::ones({4}), 1).wait();
  });
  expect_error<PeerLostError>(errors[0], "rank 1");
}

TEST(Groups, TwoOfThemWorkInTwoThreads) {
  run_ranks_or_throw(3, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto other = group->split(0);
    const auto work = [](ProcessGroup& used) {
      for (int i = 0; i < 500; ++i) {
        const auto tensor = torch::full({100}, i);
        used.all_reduce(tensor).wait();
        ASSERT_EQ(tensor[99].item<int>(), 3 * i);
      }
      used.close();
    };
    std::jthread thread([&] { work(*other); });
    work(*group);
  });
}

TEST(Groups, OneThatFailsLeavesTheOthersAlone) {
  run_ranks_or_throw(3, [](const std::shared_ptr<ProcessGroup>& group) {
    auto broken = group->split(0);
    if (group->rank() == 1) {
      broken.reset();  // gives up without close
    } else {
      EXPECT_THROW(broken->barrier(), PeerLostError);
    }
    const auto tensor = torch::ones({4});
    group->all_reduce(tensor).wait();
    EXPECT_EQ(tensor[0].item<float>(), 3.0F);
    group->close();
  });
}

TEST(Groups, AreClosedInAnyOrder) {
  run_ranks_or_throw(3, [](std::shared_ptr<ProcessGroup> group) {
    const auto part = group->split(group->rank() == 0 ? 0 : 1);
    group->close();
    group.reset();
    const auto tensor = torch::ones({4});
    part->all_reduce(tensor).wait();
    EXPECT_EQ(tensor[0].item<float>(), static_cast<float>(part->size()));
    part->close();
  });
}

// --- autograd ---

/// What autograd says by itself of `x` after an addition in place.
template <typename Function>
void expect_error_of_autograd(const Function& function) {
  try {
    function();
    ADD_FAILURE() << "no error";
  } catch (const c10::Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("modified by an inplace operation"), std::string::npos) << text;
  }
}

TEST_P(Ranks, ACollectiveIntoATensorOfAGraphIsAutogradsErrorInBackward) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto weight = torch::ones({1}).requires_grad_();
    const auto x = torch::full({1}, static_cast<float>(2 * (group->rank() + 1)));
    const auto loss = (weight * x * x).sum();  // holds x
    Work work = group->all_reduce(x);
    expect_error_of_autograd([&] { loss.backward(); });  // before the result is there as well
    work.wait();

    // A parameter that the graph holds, and an interior tensor that it holds.
    const auto square = weight.square().sum();
    group->all_reduce(weight).wait();
    expect_error_of_autograd([&] { square.backward(); });
    const auto interior = weight * 2;
    const auto cube = interior.pow(3).sum();
    group->all_reduce(interior).wait();
    expect_error_of_autograd([&] { cube.backward(); });
    EXPECT_FALSE(weight.grad().defined());
    group->close();
  });
}

TEST_P(Ranks, AGraphThatHoldsNothingOfWhatACollectiveWroteGivesItsGradient) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto weight = torch::full({2}, 3.0F).requires_grad_();
    const auto loss = (weight * 5).sum();
    group->all_reduce(weight).wait();  // leaves, and parts of them, as in PyTorch
    group->all_reduce(weight[0]).wait();
    loss.backward();
    EXPECT_TRUE(torch::equal(weight.grad(), torch::full({2}, 5.0F)));
    EXPECT_TRUE(weight.is_leaf());
    // For a log: the loss is changed when backward is done.
    group->all_reduce(loss).wait();
    // On a copy, and where gradients are off.
    const auto second = (weight * 5).sum();
    group->all_reduce(second.detach().clone()).wait();
    {
      const torch::NoGradGuard no_grad;
      group->all_reduce(second).wait();
    }
    second.backward();
    EXPECT_TRUE(torch::equal(weight.grad(), torch::full({2}, 10.0F)));
    group->close();
  });
}

TEST_P(Ranks, BackwardThroughACollectiveIsAnErrorThatNamesIt) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto weight = torch::ones({4}).requires_grad_();
    const auto expect_error = [&](const char* op, const torch::Tensor& loss) {
      try {
        loss.backward();
        ADD_FAILURE() << op << ": no error";
      } catch (const c10::Error& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find(op), std::string::npos) << text;
        EXPECT_NE(text.find("no derivative"), std::string::npos) << text;
      }
    };
    auto interior = weight * 2;
    group->all_reduce(interior).wait();
    expect_error("all_reduce", interior.sum());
    interior = weight * 2;
    group->all_reduce(interior.slice(0, 0, 2)).wait();  // of a part, and of the whole after it
    expect_error("all_reduce", interior.sum());
    const auto rows = weight.expand({group->size(), 4}).contiguous() * 2;
    group->all_gather(rows, torch::ones({4})).wait();
    expect_error("all_gather", rows.sum());
    group->close();
  });
}

TEST_P(Ranks, ViewsThatAutogradForbidsToWriteAreRefused) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto interior = torch::ones({2, 3}).requires_grad_() * 1;
    const auto rows = interior.unbind(0);
    EXPECT_THROW(group->all_reduce(rows[0]), c10::Error);
    group->barrier();
    EXPECT_EQ(interior.sum().item<float>(), 6.0F);
    group->close();
  });
}

// --- two threads in one group ---

void expect_two_threads_named(const std::exception_ptr& error, const std::string& first,
                              const std::string& second) {
  expect_error<c10::Error>(error, "two threads were in this process group at once");
  const std::string text = text_of(error);
  EXPECT_NE(text.find("in " + first), std::string::npos) << text;
  EXPECT_NE(text.find("in " + second), std::string::npos) << text;
}

template <typename Function>
std::exception_ptr error_of(const Function& function) {
  try {
    function();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

TEST_P(Ranks, ASecondThreadIsNamedAndEndsTheGroup) {
  run_ranks(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::ones({3});
    std::exception_ptr second;
    const auto error = error_of([&] {
      // Both are there at once, whatever the machine does.
      group
          ->coalesced([&] {
            std::jthread([&] { second = error_of([&] { group->all_reduce(tensor); }); }).join();
          })
          .wait();
      group->barrier();
    });
    expect_two_threads_named(second, "coalesced", "all_reduce");
    expect_two_threads_named(error, "coalesced", "all_reduce");
    EXPECT_EQ(tensor[0].item<float>(), 1.0F);
    EXPECT_THROW(group->close(), c10::Error);
  });
}

TEST(TwoThreads, WhoWaitsHearsOfTheOther) {
  std::atomic<bool> is_seen{false};
  run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::ones({3});
    if (group->rank() == 1) {  // comes when rank 0's threads have met
      while (!is_seen) std::this_thread::sleep_for(milliseconds(1));
      static_cast<void>(error_of([&] { group->all_reduce(tensor).wait(); }));
      return;
    }
    Work work = group->all_reduce(tensor);
    std::exception_ptr looked;
    std::jthread looking([&] {
      while (!looked && !is_seen)
        looked = error_of([&] { static_cast<void>(work.is_completed()); });
      is_seen = true;
    });
    const auto waited = error_of([&] { work.wait(); });
    is_seen = true;  // where this thread was the second
    looking.join();
    expect_two_threads_named(waited, "wait", "is_completed");
    if (looked) expect_two_threads_named(looked, "wait", "is_completed");
  });
}

TEST(TwoThreads, ProgressBesideACallIsReportedByTheNext) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    static_cast<void>(group->coalesced([&] {
      std::jthread([&] { group->progress(); }).join();
      expect_two_threads_named(error_of([&] { group->barrier(); }), "coalesced", "progress");
    }));
  });
}

TEST_P(Ranks, ThreadsMayTakeTurns) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::ones({3});
    for (int i = 0; i < 20; ++i) {
      std::optional<Work> work;
      std::jthread([&] { work = group->all_reduce(tensor, ReduceOp::Max); }).join();
      std::jthread([&] { group->progress(); }).join();
      std::jthread([&] { work->wait(); }).join();
    }
    EXPECT_EQ(tensor[2].item<float>(), 1.0F);
    group->close();
  });
}

TEST(Rendezvous, TwoWhoAreAloneDoNotMeet) {
  const auto options =
      ProcessGroupOptions().backend(Backend::SharedMemory).environment(LaunchEnvironment());
  const auto one = init_process_group(options);
  const auto two = init_process_group(options);
  one->barrier();
  two->close();
  one->close();
}

TEST(Mismatch, OfAnAllocation) {
  expect_mismatch(
      [](ProcessGroup& group, const torch::Tensor&) {
        static_cast<void>(group.allocate({100}, torch::kByte));
      },
      [](ProcessGroup& group, const torch::Tensor&) {
        static_cast<void>(group.allocate({200}, torch::kByte));
      },
      "allocate of 200 bytes");
}

TEST(Mismatch, OfGroupMemoryAndOrdinaryMemory) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto tensor = group->allocate({100}, torch::kFloat);
    if (group->rank() == 1) tensor = torch::ones({100});
    group->all_reduce(tensor).wait();
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "in registered memory");
}

TEST(Failure, ARankThatDoesNotComeIsNamedWhenTheDeadlinePasses) {
  TimedBarrier both_have_arrived(2);
  Signal are_over("until ranks 0 and 1 had given up", 2);
  const auto errors = run_ranks(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    group->barrier();
    if (group->rank() == 2) {
      are_over.wait();
      group->all_reduce(torch::ones({4})).wait();
      // Rank 2 found everything that it needed; it hears of the others' end in the next call.
      group->barrier();
      return;
    }
    const SignalAtEnd end(are_over);
    auto work = group->all_reduce(torch::ones({4}));
    both_have_arrived.arrive_and_wait();
    work.wait(milliseconds(400));
  });
  // Whoever gives up first may be what the other notices.
  const bool is_first = text_of(errors[0]).find("gave up") == std::string::npos;
  expect_error<TimeoutError>(errors[is_first ? 0 : 1], "rank 2");
  expect_error<TimeoutError>(errors[is_first ? 0 : 1], "has not arrived");
  EXPECT_EQ(text_of(errors[is_first ? 0 : 1]).find(is_first ? "rank 1 (" : "rank 0 ("),
            std::string::npos)
      << text_of(errors[0]) << text_of(errors[1]);
  // Not only that they are gone: also why.
  expect_error<PeerLostError>(errors[2], "gave up: ");
  expect_error<PeerLostError>(errors[2], "timed out after ");
}

TEST(Failure, AWaitCanHaveADeadlineOfItsOwn) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return is_over.wait();
    const SignalAtEnd end(is_over);
    group->all_reduce(torch::ones({4})).wait(milliseconds(100));
  });
  expect_error<TimeoutError>(errors[0], "timed out after ");
  EXPECT_EQ(text_of(errors[0]).find("timed out after 60"), std::string::npos) << text_of(errors[0]);
}

TEST(Failure, ARankThatThrowsIsNamedAtOnce) {
  const auto errors = run_ranks(3, [](const std::shared_ptr<ProcessGroup>& group) {
    group->barrier();
    if (group->rank() == 1) throw std::runtime_error("out of luck");
    group->all_reduce(torch::ones({4})).wait();
  });
  // Whoever waited for the deadline has another type of error.
  for (const int rank : {0, 2}) {
    expect_error<PeerLostError>(errors[static_cast<std::size_t>(rank)], "rank 1");
  }
  expect_error<PeerLostError>(errors[0], "destroyed without close()");
}

TEST(Failure, TheFirstErrorIsTheAnswerToEveryLaterCall) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 1) return;
    EXPECT_THROW(group->barrier(), PeerLostError);
    EXPECT_THROW(group->all_reduce(torch::ones({4})), PeerLostError);
    EXPECT_THROW(group->close(), PeerLostError);
  });
  for (const auto& error : errors) EXPECT_EQ(error, nullptr) << text_of(error);
}

TEST(Failure, ARankThatHasClosedIsNamed) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    // Rank 1 makes one call more than rank 0.
    if (group->rank() == 1) group->barrier();
    group->close();
    if (group->rank() == 1) group->barrier();
  });
  // The barrier of rank 1 met the close of rank 0, which is one too.
  EXPECT_EQ(errors[0], nullptr) << text_of(errors[0]);
  expect_error<PeerLostError>(errors[1], "rank 0");
}

/// `patience`: rank 0's, which comes last; the others have time.
std::vector<std::exception_ptr> meet(const std::vector<LaunchEnvironment>& environments,
                                     milliseconds patience) {
  Signal are_others_here("until the others began to meet",
                         static_cast<int>(environments.size()) - 1);
  std::vector<std::exception_ptr> errors(environments.size());
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < environments.size(); ++i) {
    threads.emplace_back([&, i] {
      const bool is_first = environments[i].rank == 0;
      errors[i] = error_of([&] {
        is_first ? are_others_here.wait() : are_others_here.give();
        init_process_group(ProcessGroupOptions()
                               .timeout(is_first ? patience : kRankTimeout)
                               .environment(environments[i]))
            ->barrier();
      });
    });
  }
  threads.clear();
  return errors;
}

TEST(Rendezvous, RanksThatDoNotComeAreNamed) {
  const auto environment = fake_environment(0, 3, unique_job_id());
  const auto options = ProcessGroupOptions().timeout(milliseconds(300)).environment(environment);
  try {
    [[maybe_unused]] const auto group = init_process_group(options);
    FAIL() << "no error";
  } catch (const LaunchError& error) {
    EXPECT_NE(std::string(error.what()).find("rank(s) 1, 2 of 3 did not come"), std::string::npos)
        << error.what();
  }
  const auto other = ProcessGroupOptions()
                         .timeout(milliseconds(300))
                         .environment(fake_environment(1, 2, unique_job_id()));
  try {
    [[maybe_unused]] const auto group = init_process_group(other);
    FAIL() << "no error";
  } catch (const LaunchError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 0 did not come"), std::string::npos)
        << error.what();
  }
}

TEST(Rendezvous, TheRanksThatCameHearWhoDidNot) {
  // They say again and again that they are here, which must not keep rank 0 from giving up. Rank 0
  // must have heard both when its time is over.
  expect_with_some_limit([](milliseconds limit) {
    const std::string job = unique_job_id();
    const auto errors = meet(
        {fake_environment(0, 4, job), fake_environment(1, 4, job), fake_environment(2, 4, job)},
        limit);
    std::string others;
    for (const auto& error : errors) {
      const std::string text = text_of(error);
      if (text.find("rank(s) 3 of 4 did not come") == std::string::npos) others += text + "; ";
    }
    return others;
  });
}

// Rank 2 says hello, gives up, and lives on; rank 1 has the memory when rank 0 misses rank 2.
TEST(Rendezvous, WhoeverHasTheMemoryHearsThatRank0CouldNotHandItToAll) {
  const auto attempt = [](milliseconds limit) -> std::string {
    const std::string job = unique_job_id();
    const auto text_of_meeting = [&](int rank, milliseconds timeout) {
      return text_of(error_of([&] {
        init_process_group(
            ProcessGroupOptions().timeout(timeout).environment(fake_environment(rank, 3, job)))
            ->barrier();
      }));
    };
    std::atomic<bool> has_given_up{false};
    std::jthread first([&] {
      const std::string text = text_of_meeting(0, limit);
      EXPECT_NE(text.find("did not come"), std::string::npos) << text;
      has_given_up = true;
    });
    std::string seen;
    do {  // until rank 0 has heard of it
      seen = text_of_meeting(2, milliseconds(200));
    } while (seen.find("rank 0 did not come") != std::string::npos && !has_given_up);
    if (has_given_up) return "rank 0 gave up before rank 1 came";
    const std::string text = text_of_meeting(1, 2 * limit);
    // Not a timeout: rank 0 tells of it.
    const bool is_told = text.find("rank 2 did not come") != std::string::npos &&
                         text.find("gave up: ") != std::string::npos;
    return is_told ? "" : text;
  };
  expect_with_some_limit(attempt, milliseconds(4000));  // rank 2 waits for half of that
}

TEST(Groups, OfAGroupThatIsClosedMayStayWhileTheNextIsDivided) {
  const std::string job = unique_job_id();
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([=] {
      std::vector<std::shared_ptr<ProcessGroup>> parts;
      for (int i = 0; i < 3; ++i) {
        const auto group = init_process_group(ProcessGroupOptions()
                                                  .timeout(kRankTimeout)
                                                  .environment(fake_environment(rank, 2, job)));
        EXPECT_NO_THROW(parts.push_back(group->split(0)));
        group->close();
      }
      for (const auto& part : parts) part->close();
    });
  }
}

TEST(Groups, AfterOneThatFailedAnotherMayMeetUnderItsName) {
  const std::string job = unique_job_id();
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([=] {
      const auto options =
          ProcessGroupOptions().timeout(kRankTimeout).environment(fake_environment(rank, 2, job));
      const auto failed = init_process_group(options);
      EXPECT_THROW(failed->all_reduce(torch::ones({2 + rank})).wait(), MismatchError);
      EXPECT_THROW(failed->close(), MismatchError);
      std::shared_ptr<ProcessGroup> next;
      EXPECT_NO_THROW(next = init_process_group(options));  // `failed` is still held
      if (next) next->close();
    });
  }
}

TEST(Messages, AreFinishedByClose) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = torch::full({1 << 20}, group->rank());  // more than lies between two ranks
    if (group->rank() == 0) {
      group->send(tensor, 1);
    } else {
      group->recv(tensor, 0);
    }
    group->close();
    EXPECT_TRUE(torch::equal(tensor, torch::zeros_like(tensor)));
  });
}

/// Asks instead of waiting.
void ask_until_completed(Work& work) {
  EXPECT_TRUE(happens([&] { return work.is_completed(); }));
}

TEST(Failure, IsSeenByWhoeverAsksInsteadOfWaiting) {
  const auto errors = run_ranks(3, [](const std::shared_ptr<ProcessGroup>& group) {
    if (group->rank() == 2) return;  // gone without close
    auto work = group->all_reduce(torch::ones({4}));
    ask_until_completed(work);
    ASSERT_NE(work.exception(), nullptr);
    std::rethrow_exception(work.exception());
  });
  for (const std::size_t rank : {std::size_t{0}, std::size_t{1}}) {
    ASSERT_NE(errors[rank], nullptr);
    EXPECT_THROW(std::rethrow_exception(errors[rank]), PeerLostError);
  }
}

TEST(Failure, ADeadlineIsSeenByWhoeverAsksInsteadOfWaiting) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_ranks(
      2,
      [&](const std::shared_ptr<ProcessGroup>& group) {
        if (group->rank() == 1) return is_over.wait();
        const SignalAtEnd end(is_over);
        auto work = group->all_reduce(torch::ones({4}));
        ask_until_completed(work);
        ASSERT_NE(work.exception(), nullptr);
        EXPECT_THROW(std::rethrow_exception(work.exception()), TimeoutError);
      },
      milliseconds(500));
  for (const auto& error : errors) EXPECT_EQ(error, nullptr);
}

TEST(Single, PiecesOfDifferentSizesForOneselfAreAMismatch) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto output = torch::zeros({3});
    const std::vector<torch::Tensor> outputs{output}, inputs{torch::ones({5})};
    EXPECT_THROW(group->all_to_all(outputs, inputs).wait(), MismatchError);
    EXPECT_TRUE(torch::equal(output, torch::zeros({3})));
  });
}

TEST(Rendezvous, WorldSizesThatDifferAreAnErrorOnBothSides) {
  const std::string job = unique_job_id();
  const auto errors =
      meet({fake_environment(0, 2, job), fake_environment(1, 3, job)}, kRankTimeout);
  for (const auto& error : errors) expect_error<LaunchError>(error, "world of 3");
}

TEST(Rendezvous, OneRankTwiceIsAnError) {
  // One of the two is refused at once, while the other waits for rank 0.
  expect_with_some_limit([](milliseconds limit) {
    const std::string job = unique_job_id();
    Signal is_refused("until one of the two had been refused");
    const auto text_of_meeting = [&](int rank, milliseconds timeout) {
      return text_of(error_of([&] {
        if (rank == 0) is_refused.wait();
        static_cast<void>(init_process_group(
            ProcessGroupOptions().timeout(timeout).environment(fake_environment(rank, 3, job))));
      }));
    };
    std::atomic<int> refused{0};
    const auto be_rank_1 = [&] {
      const std::string text = text_of_meeting(1, kRankTimeout);
      if (text.find("rank 1 of job") == std::string::npos) return;
      EXPECT_NE(text.find("is running already"), std::string::npos) << text;
      ++refused;
      is_refused.give();
    };
    std::jthread one(be_rank_1), two(be_rank_1);
    std::string text = text_of_meeting(0, limit);
    one.join(), two.join();
    EXPECT_EQ(refused, 1);
    return text.find("rank(s) 2 of 3 did not come") == std::string::npos ? text : "";
  });
}

TEST(Rendezvous, ASecondGroupBesideAnOpenOneSaysThatItIsThisProcess) {
  const std::string job = unique_job_id();
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([=] {
      const auto init = [&] {
        return init_process_group(ProcessGroupOptions()
                                      .timeout(kRankTimeout)
                                      .environment(fake_environment(rank, 2, job)));
      };
      const auto group = init();
      const auto error = error_of([&] { static_cast<void>(init()); });
      expect_error<LaunchError>(error, "is running already, in this process");
      expect_error<LaunchError>(error, "split(0)");
      group->close();
      init()->close();  // one after the other
    });
  }
}

TEST(Rendezvous, SaysWhatWasAssumedOfHostsWhereNobodyComes) {
  for (const int rank : {0, 1}) {
    auto environment = fake_environment(rank, 2, unique_job_id());
    environment.assumption = "LOCAL_WORLD_SIZE is not set";
    const auto error = error_of([&] {
      static_cast<void>(init_process_group(
          ProcessGroupOptions().timeout(milliseconds(200)).environment(environment)));
    });
    expect_error<LaunchError>(error, "did not come within");
    expect_error<LaunchError>(error, "LOCAL_WORLD_SIZE is not set");
  }
}

TEST(Options, AreChecked) {
  const auto init = [](const ProcessGroupOptions& options) {
    [[maybe_unused]] const auto group = init_process_group(options);
  };
  EXPECT_THROW(init(ProcessGroupOptions().timeout(milliseconds(0))), c10::Error);
  EXPECT_THROW(init(ProcessGroupOptions().environment(fake_environment(3, 2, "x"))), c10::Error);
  EXPECT_THROW(init(ProcessGroupOptions().environment(fake_environment(-1, 2, "x"))), c10::Error);
  EXPECT_THROW(
      init(ProcessGroupOptions().environment(fake_environment(0, 2, "x")).backend(Backend::Single)),
      LaunchError);
  auto two_hosts = fake_environment(0, 4, "x");
  two_hosts.local_size = 2;
  EXPECT_THROW(init(ProcessGroupOptions().environment(two_hosts).backend(Backend::SharedMemory)),
               LaunchError);
}

// What the library has mapped of the folder of shared memory, as the kernel names it: "#12
// (deleted)" never had a name. A look into the folder itself would find what other programs have
// there at this moment.
std::vector<std::string> mapped_shared_memory() {
  const std::string folder = std::filesystem::canonical("/dev/shm").string() + "/";
  std::ifstream maps("/proc/self/maps");
  std::vector<std::string> found;
  for (std::string line; std::getline(maps, line);) {
    const auto place = line.find(folder);
    if (place == std::string::npos) continue;
    const std::string name = line.substr(place + folder.size());
    if (name.starts_with("#") || name.starts_with("lockstep-")) found.push_back(name);
  }
  return found;
}

TEST(SharedMemoryNames, NothingIsLeftInDevShm) {
  const native::FileDescriptor nameless(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  run_ranks_or_throw(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto tensor = group->allocate({100000}, torch::kFloat);
    const auto names = mapped_shared_memory();
    EXPECT_FALSE(names.empty());
    for (const auto& name : names) {
      EXPECT_TRUE(name.ends_with(" (deleted)")) << name;
      // A rank that is killed between making a name and removing it would leave it.
      if (nameless.is_open()) {
        EXPECT_FALSE(name.starts_with("lockstep-")) << name;
      }
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
