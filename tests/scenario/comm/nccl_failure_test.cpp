// SPDX-License-Identifier: BSD-3-Clause
// What goes wrong over a NCCL that is made up (support/fake_nccl.h): every rank hears of it in
// time, and NCCL and the GPU get everything back.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <string>

#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Group = std::shared_ptr<ProcessGroup>;
using Calls = std::vector<std::string>;

TEST(NcclMismatch, IsFoundBeforeAnythingIsEnqueued) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(
      world, 3,
      [&](const Group& group) {
        sum_up(*group);
        const auto tensor = torch::full({8}, group->rank());
        if (group->rank() == 1) {
          group->broadcast(tensor, 2).wait();
        } else {
          group->all_reduce(tensor).wait();
        }
      },
      /*check_calls=*/true);
  for (const auto& error : errors) {
    expect_error<MismatchError>(error,
                                "rank 0 called all_reduce (Sum) of 8 x Long, rank 1 called "
                                "broadcast from rank 2 of 8 x Long");
  }
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(world->calls(rank), Calls{"all_reduce"});
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclMismatch, OfWhatIsSentAndExpected) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(
      world, 2,
      [&](const Group& group) {
        const auto own = torch::ones({5});
        const std::vector<torch::Tensor> inputs{own.slice(0, 0, 2), own.slice(0, 2, 4)};
        const std::int64_t other = group->rank() == 0 ? 3 : 2;
        std::vector<torch::Tensor> outputs{torch::ones({2}), torch::ones({2})};
        outputs[static_cast<std::size_t>(1 - group->rank())] = torch::ones({other});
        group->all_to_all(outputs, inputs).wait();
      },
      /*check_calls=*/true);
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 sends 8 bytes to rank 0, which expects 12");
  }
}

TEST(NcclMismatch, OfAMessage) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(
      world, 2,
      [&](const Group& group) {
        sum_up(*group);
        if (group->rank() == 0) group->send(torch::ones({10}), 1, 3).wait();
        if (group->rank() == 1) group->recv(torch::ones({8}), 0, 3).wait();
        group->barrier();
      },
      /*check_calls=*/true);
  expect_error<MismatchError>(errors[1], "rank 0 sent a message of 10 x Float with tag 3");
}

TEST(NcclMismatch, OfAMessageThatIsFoundWhileACollectiveIsPushedForward) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_nccl_ranks(
      world, 2,
      [&](const Group& group) {
        sum_up(*group);
        barrier.arrive_and_wait();
        world->hold_calls(true);
        auto sum = group->all_reduce(torch::ones({4}));
        EXPECT_TRUE(happens([&] {
          static_cast<void>(sum.is_completed());
          return world->calls(group->rank()).size() == 2;
        }));
        barrier.arrive_and_wait();
        // Behind the collective in the line, which finds that this header does not fit.
        auto message = group->rank() == 0 ? group->send(torch::ones({10}), 1, 3)
                                          : group->recv(torch::ones({8}), 0, 3);
        barrier.arrive_and_wait();
        world->hold_calls(false);
        (group->rank() == 0 ? message : sum).wait(kRankTimeout);
        message.wait(kRankTimeout);
      },
      /*check_calls=*/true);
  expect_error<MismatchError>(errors[1], "recv #1 (Nccl) failed on rank 1");
  expect_error<MismatchError>(errors[1], "rank 0 sent a message of 10 x Float with tag 3");
  expect_error<PeerLostError>(errors[0], "gave up: recv #1");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclMessages, OfTheLibraryDoNotMeetThoseOfAProgram) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& side) {
    const auto group = make_fake_nccl_group(world, side, /*check_calls=*/true);
    sum_up(*group);
    const auto sent = torch::ones({5}), received = torch::zeros({5}), other = torch::zeros({7});
    // As a CPU tensor's message would go, under the largest tag that a program may use.
    if (group->rank() == 0) {
      side->send(torch::full({7}, 2.0F), 1, 32766);
      group->send(sent, 1, 32766).wait();
    } else {
      group->recv(received, 0, 32766).wait();
      EXPECT_EQ(received[4].item<float>(), 1.0F);
      side->recv(other, 0, 32766).wait();
      EXPECT_EQ(other[6].item<float>(), 2.0F);
    }
    EXPECT_THROW(side->send(sent, 1 - group->rank(), 32767), c10::Error);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclMismatch, OfAnAllocation) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    static_cast<void>(group->allocate({100 + group->rank()}, torch::kByte));
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "allocate of 101 bytes");
}

TEST(NcclFailure, ARankThatDoesNotComeIsATimeoutAndFreesTheStream) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier after(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    if (group->rank() == 1) return after.arrive_and_wait();  // alive, and elsewhere
    const auto limit = with_short_timeout(*group);
    // The thread sleeps in its stream until the watchdog frees it.
    group->all_reduce(torch::ones({4})).wait();
    after.arrive_and_wait();
    group->all_reduce(torch::ones({4})).wait();
  });
  expect_error<TimeoutError>(errors[0], "all_reduce was enqueued and does not end");
  expect_error<TimeoutError>(errors[0], "timed out after 0.");
  EXPECT_EQ(errors[1], nullptr);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, ARankThatDoesNotComeIsATimeoutWhereNobodyWaits) {
  // The thread may be blocked in a call of CUDA's: nothing but the watchdog can free it.
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier after(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    if (group->rank() == 1) return after.arrive_and_wait();
    const auto limit = with_short_timeout(*group);
    auto work = group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] { return world->aborts() == 1; }));
    after.arrive_and_wait();
    work.wait();
  });
  expect_error<TimeoutError>(errors[0], "all_reduce was enqueued and does not end");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, APieceForItselfOfAnotherSizeIsAnError) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    std::vector<torch::Tensor> inputs{torch::ones({2}), torch::ones({2})};
    std::vector<torch::Tensor> outputs{torch::ones({2}), torch::ones({2})};
    if (group->rank() == 1) outputs[1] = torch::ones({3});
    group->all_to_all(outputs, inputs).wait();
    group->barrier();
  });
  expect_error<CommError>(errors[1], "8 bytes go from this rank to itself, which expects 12");
  expect_error<PeerLostError>(errors[0], "gave up");
}

TEST(NcclFailure, ARankThatDoesNotComeIsNamedWhereCallsAreCompared) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier after(3);
  const auto errors = run_nccl_ranks(
      world, 3,
      [&](const Group& group) {
        sum_up(*group);
        if (group->rank() == 2) return after.arrive_and_wait();
        const auto limit = with_short_timeout(*group);
        try {
          group->all_reduce(torch::ones({4})).wait();
        } catch (...) {
          after.arrive_and_wait();
          throw;
        }
        after.arrive_and_wait();
      },
      /*check_calls=*/true);
  int timeouts = 0;
  for (const std::size_t rank : {std::size_t{0}, std::size_t{1}}) {
    ASSERT_NE(errors[rank], nullptr);
    // The one that gives up first may be what the other notices.
    timeouts += text_of(errors[rank]).find("rank 2 (") != std::string::npos &&
                text_of(errors[rank]).find("has not arrived") != std::string::npos;
  }
  EXPECT_GE(timeouts, 1) << text_of(errors[0]) << "\n" << text_of(errors[1]);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, ARankThatNeverMeetsIsATimeout) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier after(2);
  const auto errors = run_nccl_ranks(
      world, 2,
      [&](const Group& group) {
        if (group->rank() == 1) return after.arrive_and_wait();
        try {
          group->all_reduce(torch::ones({4})).wait();
        } catch (...) {
          after.arrive_and_wait();
          throw;
        }
      },
      false, milliseconds(300));
  expect_error<TimeoutError>(errors[0], "timed out after ");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, ARankThatThrowsIsMissedByTheOthers) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 3, [&](const Group& group) {
    sum_up(*group);
    if (group->rank() == 1) throw std::runtime_error("out of luck");
    group->all_reduce(torch::ones({4})).wait(kRankTimeout);
  });
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    expect_error<PeerLostError>(errors[rank], "gave up: ");
  }
  EXPECT_EQ(world->complaints(), Calls());
  EXPECT_EQ(world->aborts(), 3);
}

TEST(NcclFailure, ARankThatThrowsIsMissedWhereNcclIsWaitedFor) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_windows(1);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    static_cast<void>(group->allocate({100}, torch::kFloat));
  });
  expect_error<CommError>(errors[1], "ncclCommWindowRegister");
  expect_error<PeerLostError>(errors[0], "gave up: ");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, AnErrorOfNcclsEndsTheGroup) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_after(0, 2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    for (int i = 0; i < 5; ++i) {
      group->all_reduce(torch::ones({4})).wait();
      group->barrier();
    }
  });
  expect_error<PeerLostError>(errors[0], "the fake was told to fail");
  ASSERT_NE(errors[1], nullptr);
  EXPECT_EQ(world->calls(0).size(), 3U);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, AnErrorOfTheDeviceEndsTheGroup) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    group->barrier();
    if (group->rank() == 0) world->fail_events(0);
    group->all_reduce(torch::ones({4})).wait(kRankTimeout);
    group->barrier();
  });
  expect_error<CommError>(errors[0], "an illegal memory access");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, AnErrorWhileTheyMeetIsOnEveryRank) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_init(1);
  const auto errors = run_nccl_ranks(
      world, 2, [&](const Group& group) { group->all_reduce(torch::ones({4})).wait(); });
  expect_error<CommError>(errors[1], "ncclCommInitRankConfig: system error");
  expect_error<PeerLostError>(errors[0], "rank 1");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, NoUniqueIdIsAnErrorOnEveryRank) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_unique_id();
  const auto errors = run_nccl_ranks(
      world, 2, [&](const Group& group) { group->all_reduce(torch::ones({4})).wait(); });
  for (const auto& error : errors) expect_error<CommError>(error, "ncclGetUniqueId on rank 0");
}

TEST(NcclFailure, TooLittleMemoryIsAnErrorOnEveryRankAndTheGroupGoesOn) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_memory(1);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    EXPECT_THROW(static_cast<void>(group->allocate({100}, torch::kFloat)), CommError);
    sum_up(*group);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, OfAnAllocationBehindAnotherCallComesAtOneDeadlineAndGivesMemoryBack) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    barrier.arrive_and_wait();
    world->hold_calls(true);
    const auto scope = group->with(CallOptions().timeout(kRankTimeout));
    const auto tensor = torch::ones({4});
    auto message = group->rank() == 0 ? group->send(tensor, 1) : group->recv(tensor, 0);
    const auto shorter = group->with(CallOptions().timeout(milliseconds(1000)));
    EXPECT_THROW(static_cast<void>(group->allocate({100}, torch::kFloat)), CommError);
    message.wait();
  });
  for (const auto& error : errors) {
    expect_error<CommError>(error, "allocate #3 (Nccl) failed");
    expect_error<CommError>(error, "a call before it cannot be enqueued");
  }
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, OfTheZeroingOfAnAllocationGivesItsMemoryBack) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_zeroing(1);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    static_cast<void>(group->allocate({100}, torch::kFloat));
    group->barrier();
  });
  expect_error<CommError>(errors[1], "cannot be zeroed");
  expect_error<PeerLostError>(errors[0], "gave up: ");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, OfAPeerIsIgnoredWhileNothingIsUnderWay) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    group->barrier();
    if (group->rank() == 1) return;  // leaves without close()
    ASSERT_TRUE(happens([&] { return world->aborts() == 1; }));
    // More looks than fit into the time that the watchdog leaves to the last operations.
    const int looks = world->looks(0);
    EXPECT_TRUE(happens([&] { return world->looks(0) > looks + 50; }));
    EXPECT_EQ(world->aborts(), 1);
    group->all_reduce(torch::ones({4})).wait(kRankTimeout);
  });
  expect_error<PeerLostError>(errors[0], "gave up: ");
  EXPECT_EQ(errors[1], nullptr);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, AfterItEveryCallThrowsTheSame) {
  const auto world = std::make_shared<FakeNccl>();
  world->fail_after(0, 0);
  world->fail_after(1, 0);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    EXPECT_THROW(group->all_reduce(torch::ones({4})).wait(kRankTimeout), CommError);
    EXPECT_THROW(group->broadcast(torch::ones({4})), CommError);
    EXPECT_THROW(group->barrier(), CommError);
    EXPECT_THROW(static_cast<void>(group->allocate({4}, torch::kFloat)), CommError);
    EXPECT_THROW(group->close(), CommError);
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclFailure, OfOneGroupLeavesTheOthersAlone) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 3, [](const Group& group) {
    sum_up(*group);
    auto broken = group->split(0);
    if (group->rank() == 1) {
      broken.reset();
    } else {
      EXPECT_THROW(broken->all_reduce(torch::ones({4})).wait(kRankTimeout), PeerLostError);
    }
    sum_up(*group);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

}  // namespace
}  // namespace lockstep::testing
