// SPDX-License-Identifier: BSD-3-Clause
#include "inference/request_channel.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

namespace lockstep::inference::detail {
namespace {

using namespace std::chrono_literals;

// Two members, the first with two copies.
class RequestChannelTest : public ::testing::Test {
 protected:
  RequestChannelTest() : channel(ChannelShape{3, 2, {0, 0, 1}}) {}

  void open(std::size_t slot, std::uint64_t sequence) {
    channel.slot(slot).deadline.store(now_ns() + 600'000'000'000);
    channel.open(slot, sequence);
  }
  [[nodiscard]] PartState state(std::size_t slot, std::size_t member) const {
    return channel.word(slot, member).state;
  }
  // What the fork server has seen before it repairs.
  void end_worker(std::size_t worker) {
    channel.workers()[worker].wait_status.store(SIGKILL);
    channel.workers()[worker].pid.store(1234);
    channel.repair(worker);
  }

  RequestChannel channel;
};

TEST_F(RequestChannelTest, TheOldestComesFirstAndIsClaimedOnce) {
  open(2, 5);
  open(0, 6);
  std::size_t slot = 99;
  std::uint64_t sequence = 0;
  ASSERT_TRUE(channel.find_oldest(0, slot, sequence));
  EXPECT_EQ(slot, 2U);
  EXPECT_EQ(sequence, 5U);
  EXPECT_TRUE(channel.claim(1, 2, 5));
  EXPECT_FALSE(channel.claim(0, 2, 5));
  EXPECT_FALSE(channel.claim(0, 0, 5));  // of a request that was there before
  EXPECT_TRUE(channel.claim(2, 2, 5));   // the other member's part
  ASSERT_TRUE(channel.find_oldest(0, slot, sequence));
  EXPECT_EQ(slot, 0U);
  EXPECT_EQ(channel.word(2, 0).worker, 1U);
}

TEST_F(RequestChannelTest, WhatADeadWorkerHadIsOpenedOnceAndThenPoison) {
  open(1, 1);
  ASSERT_TRUE(channel.claim(1, 1, 1));
  end_worker(0);  // another one
  EXPECT_EQ(state(1, 0), PartState::Running);
  end_worker(1);
  EXPECT_EQ(state(1, 0), PartState::Open);
  EXPECT_EQ(state(1, 1), PartState::Open);
  ASSERT_TRUE(channel.claim(0, 1, 1));
  end_worker(0);
  EXPECT_EQ(state(1, 0), PartState::Failed);
  EXPECT_EQ(channel.part(1, 0).failure, PartFailure::Ended);
  EXPECT_EQ(channel.part(1, 0).wait_status, SIGKILL);
  EXPECT_EQ(channel.part(1, 0).pid, 1234);
  EXPECT_EQ(channel.member(0).failed.load(), 1U);
  // The next request in the slot begins anew.
  ASSERT_TRUE(channel.claim(2, 1, 1));
  channel.finish(2, 1, 1, PartState::Done);
  open(1, 2);
  ASSERT_TRUE(channel.claim(0, 1, 2));
  end_worker(0);
  EXPECT_EQ(state(1, 0), PartState::Open);
}

TEST_F(RequestChannelTest, AnAbandonedRequestIsOverWhenNobodyIsAtIt) {
  open(0, 1);
  ASSERT_TRUE(channel.claim(0, 0, 1));
  channel.abandon(0);
  EXPECT_EQ(state(0, 1), PartState::Skipped);
  EXPECT_FALSE(channel.is_over(0));
  end_worker(0);  // not to be tried again
  EXPECT_EQ(state(0, 0), PartState::Skipped);
  EXPECT_TRUE(channel.is_over(0));
  std::size_t slot = 0;
  std::uint64_t sequence = 0;
  EXPECT_FALSE(channel.find_oldest(0, slot, sequence));
}

TEST_F(RequestChannelTest, ARequestThatIsTooLateIsPassedOver) {
  open(0, 1);
  channel.slot(0).deadline.store(now_ns() - 1);
  std::size_t slot = 0;
  std::uint64_t sequence = 0;
  EXPECT_FALSE(channel.find_oldest(1, slot, sequence));
  EXPECT_EQ(state(0, 1), PartState::Skipped);
}

TEST_F(RequestChannelTest, WhoWaitsIsWokenByTheLastPartOrAFailure) {
  const auto changes = [&] { return channel.slot(0).changes.load(); };
  open(0, 1);
  ASSERT_TRUE(channel.claim(0, 0, 1) && channel.claim(2, 0, 1));
  const auto before = changes();
  channel.finish(0, 0, 1, PartState::Done);
  EXPECT_EQ(changes(), before);
  channel.finish(2, 0, 1, PartState::Done);
  EXPECT_NE(changes(), before);
  open(0, 2);
  ASSERT_TRUE(channel.claim(0, 0, 2));
  const auto second = changes();
  std::thread waiter([&] {
    while (changes() == second) channel.wait_for_change(0, second, 1min);
  });
  channel.finish(0, 0, 2, PartState::Failed);
  waiter.join();
  EXPECT_NE(changes(), second);
  // A part that nobody can take now does not count; one that somebody can take does.
  open(1, 3);
  const auto third = channel.slot(1).changes.load();
  channel.workers()[1].state.store(workers::WorkerState::Running);
  ASSERT_TRUE(channel.claim(2, 1, 3));
  channel.finish(2, 1, 3, PartState::Done);
  EXPECT_EQ(channel.slot(1).changes.load(), third);
  open(2, 4);
  const auto fourth = channel.slot(2).changes.load();
  channel.workers()[1].state.store(workers::WorkerState::Starting);
  ASSERT_TRUE(channel.claim(2, 2, 4));
  channel.finish(2, 2, 4, PartState::Done);
  EXPECT_NE(channel.slot(2).changes.load(), fourth);
}

TEST_F(RequestChannelTest, EndsInARowAreForgottenAfterAMinuteOfWork) {
  end_worker(0);
  end_worker(0);
  EXPECT_EQ(channel.restarts(0).ends_in_a_row.load(), 2U);
  channel.workers()[0].state.store(workers::WorkerState::Running);
  channel.restarts(0).ready_since.store(now_ns() - 61'000'000'000);
  end_worker(0);
  EXPECT_EQ(channel.restarts(0).ends_in_a_row.load(), 1U);
  channel.restarts(0).ready_since.store(now_ns());
  end_worker(0);
  EXPECT_EQ(channel.restarts(0).ends_in_a_row.load(), 2U);
}

// Copies that claim, finish, give back and die, while the program takes requests back and opens
// others in their place. Each request ends, and each of its parts is done at most once.
TEST_F(RequestChannelTest, ThreadsClaimFinishAbandonAndRepair) {
  constexpr std::uint64_t kRequests = 20000;
  std::atomic<bool> is_over{false};
  std::atomic<int> wrong{0};
  std::vector<std::atomic<int>> done(2 * (kRequests + 1));
  for (auto& worker : channel.workers()) worker.state.store(workers::WorkerState::Running);
  const auto serve = [&](std::size_t worker) {
    const auto member = channel.shape().member_of_worker[worker];
    std::uint64_t turn = 0;
    while (!is_over) {
      const auto seen = channel.work_count();
      std::size_t slot = 0;
      std::uint64_t sequence = 0;
      if (!channel.find_oldest(member, slot, sequence)) {
        channel.wait_for_work(worker, seen, 1ms);
        continue;
      }
      if (!channel.claim(worker, slot, sequence)) continue;
      // What the program has written for this request is seen by whoever has claimed it.
      if (channel.slot(slot).input.bytes != sequence) ++wrong;
      switch (++turn % 5) {
        case 0:
          channel.give_back(worker, slot, sequence);
          break;
        case 1:
          channel.repair(worker);  // as if it had died there
          channel.workers()[worker].state.store(workers::WorkerState::Running);
          break;
        default:
          channel.part(slot, member).output.bytes = 3 * sequence;
          if (done[2 * sequence + member].fetch_add(1) != 0) ++wrong;
          channel.finish(worker, slot, sequence, PartState::Done);
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t worker = 0; worker < 3; ++worker) threads.emplace_back(serve, worker);
  // Since the last request that has ended: on a busy machine, all of them take minutes.
  constexpr std::uint64_t kPatience = 60'000'000'000;
  auto end = now_ns() + kPatience;
  std::uint64_t next = 1;
  std::uint64_t ended = 0;
  std::array<std::uint64_t, 3> in_slot{};
  std::array<std::uint64_t, 3> abandoned{};
  while (ended < kRequests && now_ns() < end) {
    const auto seen = channel.completions();
    bool is_idle = true;
    for (std::size_t slot = 0; slot < 3; ++slot) {
      if (in_slot[slot] > abandoned[slot] && in_slot[slot] % 7 == 0) {
        abandoned[slot] = in_slot[slot];
        channel.abandon(slot);  // once, as the program does
      }
      if (!channel.is_over(slot) && in_slot[slot] != 0) continue;
      is_idle = false;
      if (in_slot[slot] != 0) {
        ++ended;
        end = now_ns() + kPatience;
        for (std::size_t member = 0; member < 2; ++member) {
          const bool is_done = state(slot, member) == PartState::Done;
          if (is_done && channel.part(slot, member).output.bytes != 3 * in_slot[slot]) ++wrong;
          if (!is_done && done[2 * in_slot[slot] + member] != 0) ++wrong;
        }
      }
      in_slot[slot] = 0;
      if (next > kRequests) continue;
      in_slot[slot] = next++;
      channel.slot(slot).input.bytes = in_slot[slot];
      open(slot, in_slot[slot]);
    }
    if (is_idle) channel.wait_for_completion(seen, 1ms);
  }
  is_over = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ended, kRequests);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace lockstep::inference::detail
