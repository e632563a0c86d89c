// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_events.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "support/system_call_counter.h"
#include "support/timed_waits.h"
#include "unit/workers/channel_test_support.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

using std::chrono::steady_clock;
using testing::happens;

class PoolEventsTest : public ::testing::Test {
 protected:
  PoolEventWords words{};
  WorkerRecord worker{};
  PoolEvents events{words};
};

TEST_F(PoolEventsTest, NobodySleepsAfterAnEventThatItHasNotSeen) {
  const auto work = events.work_count();
  events.wake_workers();
  events.wait_for_work(worker, work);
  EXPECT_NE(events.work_count(), work);
  const auto done = events.done_count();
  events.announce_done(7);
  events.wait_for_done(done, 7);
  events.wake_owner();
  EXPECT_EQ(events.done_count(), done + 2);
}

TEST_F(PoolEventsTest, ASleeperIsWokenByWork) {
  for (const bool all : {false, true}) {
    const auto seen = events.work_count();
    std::thread sleeper([&] {
      while (events.work_count() == seen) events.wait_for_work(worker, seen);
    });
    EXPECT_TRUE(happens([&] { return events.has_sleepers(); }));
    if (all) {
      events.wake_all_workers();
    } else {
      events.wake_workers();
    }
    sleeper.join();
    EXPECT_FALSE(events.has_sleepers());
  }
}

TEST_F(PoolEventsTest, WakingCostsASystemCallOnlyWhereSomebodyWaits) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer defers the signals by which calls are counted";
#endif
  SystemCallCounter counter;
  if (!counter.is_available()) GTEST_SKIP() << "the kernel cannot count system calls";
  EXPECT_TRUE(counter.calls_of([&] { events.wake_workers(); }).empty());
  EXPECT_TRUE(counter.calls_of([&] { events.announce_done(7); }).empty());
  words.sleepers = 1;
  words.awaited = 7 + 1;
  EXPECT_TRUE(counter.calls_of([&] { events.announce_done(6); }).empty());
  EXPECT_EQ(counter.calls_of([&] { events.announce_done(7); }), std::vector<long>{SYS_futex});
  EXPECT_EQ(counter.calls_of([&] { events.wake_workers(); }), std::vector<long>{SYS_futex});
}

// It was killed while it slept: its number in the count of sleepers goes with it, and no other's.
TEST_F(PoolEventsTest, ADeadSleeperIsForgottenOnce) {
  words.sleepers = 2;
  worker.sleeps = 1;
  events.forget_sleeper(worker);
  events.forget_sleeper(worker);
  EXPECT_EQ(words.sleepers, 1U);
}

TEST_F(PoolEventsTest, ASleepEndsWithItsSliceWhenNobodyWakes) {
  const auto begin = steady_clock::now();
  events.wait_for_work(worker, events.work_count());
  events.wait_for_done(events.done_count(), PoolEvents::kAnyTask, std::chrono::hours(1));
  EXPECT_LT(steady_clock::now() - begin, testing::kTestPatience);
  EXPECT_FALSE(events.has_sleepers());
  EXPECT_EQ(words.awaited, PoolEventWords::kNobodyWaits);
}

TEST_F(PoolEventsTest, StopReachesSleepers) {
  std::thread sleeper([&] {
    while (!events.is_stopping()) events.wait_for_work(worker, events.work_count());
  });
  EXPECT_TRUE(happens([&] { return events.has_sleepers(); }));
  events.stop_workers();
  sleeper.join();
}

// The hint that there is work gets lost: a worker looks around by itself, and so does the owner.
TEST(PoolEvents, ALostWakeUpCostsASlice) {
  TaskChannel channel({1, 1, 1});
  std::thread worker([&] {
    while (const auto claim = channel.claim(0)) channel.finish(*claim);
  });
  EXPECT_TRUE(happens([&] { return channel.events().has_sleepers(); }));
  const auto items = numbers(0, 1);
  channel.assign(0, task(1, items));  // nobody is told
  const auto end = steady_clock::now() + testing::kTestPatience;
  while (channel.state(0) != SlotState::Ready && steady_clock::now() < end) {
    channel.events().wait_for_done(channel.events().done_count(), 77);  // not the task's number
  }
  EXPECT_EQ(channel.state(0), SlotState::Ready);
  channel.events().stop_workers();
  worker.join();
}

}  // namespace
}  // namespace lockstep::workers
