// SPDX-License-Identifier: BSD-3-Clause
// The end of a communicator over a fake NCCL (support/fake_nccl.h): calls of NCCL that block hold
// up nobody else, and no memory is freed too early.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Group = std::shared_ptr<ProcessGroup>;

// Less than the time after which the fake no longer blocks a call.
constexpr auto kSoon = FakeNccl::kPatience / 2;

bool has_complaint(FakeNccl& world, const std::string& part) {
  const auto all = world.complaints();
  return std::any_of(all.begin(), all.end(), [&](const std::string& complaint) {
    return complaint.find(part) != std::string::npos;
  });
}

void expect_nothing_wrong(const std::vector<std::exception_ptr>& errors, FakeNccl& world) {
  expect_no_errors(errors);
  EXPECT_EQ(world.complaints(), std::vector<std::string>());
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
  expect_no_errors(errors);
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
  expect_nothing_wrong(errors, *world);
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
  expect_nothing_wrong(errors, *world);
}

/// Two ranks have group memory, which each test frees in another situation.
class NcclWindows : public ::testing::Test {
 protected:
  using Body = std::function<void(const Group& group, at::Tensor& memory)>;

  /// Runs `body` on both ranks once each has its memory and its communicator is ready.
  void run(const Body& body) {
    const auto errors = run_nccl_ranks(world_, 2, [&](const Group& group) {
      auto memory = group->allocate({100}, torch::kFloat);
      sum_up(*group);
      barrier_.arrive_and_wait();
      body(group, memory);
    });
    expect_nothing_wrong(errors, *world_);
  }

  /// Returns when both ranks' threads are blocked where they deregister the window of `memory`.
  [[nodiscard]] std::jthread free_while_blocked(at::Tensor& memory) {
    world_->block(/*aborts=*/false, /*windows=*/true);
    std::jthread freeing([&memory] { memory.reset(); });
    EXPECT_TRUE(happens([&] { return world_->blocked() == 2; }));
    return freeing;
  }

  std::shared_ptr<FakeNccl> world_ = std::make_shared<FakeNccl>();
  TimedBarrier barrier_{2};
};

TEST_F(NcclWindows, ThatAreDeregisteredHoldUpNobody) {
  run([&](const Group& group, at::Tensor& memory) {
    auto freeing = free_while_blocked(memory);
    const auto start = Clock::now();
    const auto sum = torch::ones({4});
    auto work = group->all_reduce(sum);
    EXPECT_FALSE(work.is_completed());
    EXPECT_LT(Clock::now() - start, kSoon);
    barrier_.arrive_and_wait();
    world_->block(false);
    work.wait(kRankTimeout);
    EXPECT_EQ(sum[0].item<float>(), 2.0F);
    freeing.join();
    group->close();
  });
  EXPECT_EQ(world_->aborts(), 0);
}

TEST_F(NcclWindows, ThatAreDeregisteredDelayAnAbort) {
  run([&](const Group& group, at::Tensor& memory) {
    auto freeing = free_while_blocked(memory);
    barrier_.arrive_and_wait();
    EXPECT_THROW(group->all_reduce(torch::ones({4})).wait(milliseconds(100)), CommError);
    barrier_.arrive_and_wait();
    EXPECT_EQ(world_->aborts(), 0);  // the other thread has borrowed the handle
    barrier_.arrive_and_wait();
    world_->block(false);
    EXPECT_TRUE(happens([&] { return world_->aborts() == 2; }));
    freeing.join();
  });
}

TEST_F(NcclWindows, AreNotDeregisteredUnderAKernel) {
  run([&](const Group& group, at::Tensor& memory) {
    world_->pause(true);
    barrier_.arrive_and_wait();
    auto work = group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] {
      static_cast<void>(work.is_completed());
      return world_->calls(group->rank()).size() == 2;
    }));
    std::jthread freeing([&memory] { memory.reset(); });
    std::this_thread::sleep_for(milliseconds(50));  // the fake would see a window deregistered now
    world_->pause(false);
    freeing.join();
    work.wait(kRankTimeout);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
