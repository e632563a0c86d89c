// SPDX-License-Identifier: BSD-3-Clause
// The end of a communicator over a NCCL that is made up (support/fake_nccl.h): calls of NCCL that
// block hold up nobody else, and nothing is given back too early.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <string>
#include <thread>

#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Group = std::shared_ptr<ProcessGroup>;
using Calls = std::vector<std::string>;

// Below the time after which the fake lets go of a call that it blocks.
constexpr auto kSoon = FakeNccl::kPatience / 2;

bool has_complaint(FakeNccl& world, const std::string& part) {
  const auto all = world.complaints();
  return std::any_of(all.begin(), all.end(), [&](const std::string& complaint) {
    return complaint.find(part) != std::string::npos;
  });
}

TEST(NcclAbort, ThatBlocksHoldsUpNobody) {
  const auto world = std::make_shared<FakeNccl>();
  world->limit_ends(milliseconds(200));
  world->block(/*aborts=*/true);
  TimedBarrier after(2);
  const auto start = Clock::now();
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    if (group->rank() == 1) return after.arrive_and_wait();
    const auto limit = with_short_timeout(*group);
    auto work = group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] { return world->blocked() == 1; }));  // the watchdog's
    EXPECT_TRUE(work.is_completed());
    EXPECT_THROW(work.wait(), TimeoutError);
    after.arrive_and_wait();
  });
  // The groups are gone, too.
  EXPECT_LT(Clock::now() - start, kSoon);
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->blocked(), 2);
  world->block(false);
  EXPECT_TRUE(happens([&] { return !has_complaint(*world, "a communicator"); }));
}

TEST(NcclAbort, IsAwaitedBeforeTensorsGo) {
  const auto world = std::make_shared<FakeNccl>();
  world->block(/*aborts=*/true);
  TimedBarrier after(2);
  std::jthread unblock;
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    if (group->rank() == 1) return after.arrive_and_wait();
    auto tensor = torch::ones({1000});
    const c10::weak_intrusive_ptr<c10::TensorImpl> watch(tensor.getIntrusivePtr());
    const auto limit = with_short_timeout(*group);
    group->all_reduce(tensor);
    tensor.reset();
    EXPECT_TRUE(happens([&] { return world->blocked() == 1; }));
    after.arrive_and_wait();
    // While the group goes.
    unblock = std::jthread([&world, watch] {
      EXPECT_FALSE(happens([&] { return watch.expired(); }, milliseconds(50)));
      world->block(false);
    });
  });
  unblock.join();
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclAbort, IsAwaitedBeforeGroupMemoryIsFreed) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier after(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    auto tensor = group->allocate({100}, torch::kFloat);
    sum_up(*group);
    after.arrive_and_wait();
    world->block(/*aborts=*/true);
    if (group->rank() == 1) return after.arrive_and_wait();
    const auto limit = with_short_timeout(*group);
    group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] { return world->blocked() >= 1; }));
    std::jthread freeing([&] { tensor.reset(); });
    // Time in which the fake would see it freed under its window.
    std::this_thread::sleep_for(milliseconds(50));
    world->block(false);
    freeing.join();
    after.arrive_and_wait();
  });
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclWindows, ThatAreLetGoHoldUpNobody) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    auto tensor = group->allocate({100}, torch::kFloat);
    sum_up(*group);
    barrier.arrive_and_wait();
    world->block(/*aborts=*/false, /*windows=*/true);
    std::jthread freeing([&] { tensor.reset(); });
    EXPECT_TRUE(happens([&] { return world->blocked() == 2; }));
    const auto start = Clock::now();
    const auto sum = torch::ones({4});
    auto work = group->all_reduce(sum);
    EXPECT_FALSE(work.is_completed());
    EXPECT_LT(Clock::now() - start, kSoon);
    barrier.arrive_and_wait();
    world->block(false);
    work.wait(kRankTimeout);
    EXPECT_EQ(sum[0].item<float>(), 2.0F);
    freeing.join();
    group->close();
  });
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->complaints(), Calls());
  EXPECT_EQ(world->aborts(), 0);
}

TEST(NcclWindows, ThatAreLetGoAreWaitedForByAnAbort) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    auto tensor = group->allocate({100}, torch::kFloat);
    sum_up(*group);
    barrier.arrive_and_wait();
    world->block(/*aborts=*/false, /*windows=*/true);
    std::jthread freeing([&] { tensor.reset(); });
    EXPECT_TRUE(happens([&] { return world->blocked() == 2; }));
    barrier.arrive_and_wait();
    EXPECT_THROW(group->all_reduce(torch::ones({4})).wait(milliseconds(100)), CommError);
    barrier.arrive_and_wait();
    EXPECT_EQ(world->aborts(), 0);  // the handle is in the other thread's hands
    barrier.arrive_and_wait();
    world->block(false);
    EXPECT_TRUE(happens([&] { return world->aborts() == 2; }));
    freeing.join();
  });
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclWindows, AreNotLetGoUnderAKernel) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    auto tensor = group->allocate({100}, torch::kFloat);
    sum_up(*group);
    barrier.arrive_and_wait();
    world->pause(true);
    barrier.arrive_and_wait();
    auto work = group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] {
      static_cast<void>(work.is_completed());
      return world->calls(group->rank()).size() == 2;
    }));
    std::jthread freeing([&] { tensor.reset(); });
    std::this_thread::sleep_for(milliseconds(50));  // for the fake to see it let go
    world->pause(false);
    freeing.join();
    work.wait(kRankTimeout);
    group->close();
  });
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->complaints(), Calls());
}

}  // namespace
}  // namespace lockstep::testing
