// SPDX-License-Identifier: BSD-3-Clause
// When a slot that a device may read goes back to the workers.
#include "data/loader/deferred_release.h"

#include <c10/core/StreamGuard.h>

#include "support/forks.h"
#include "unit/data/loader/feeding_test_support.h"

namespace lockstep::data::detail {
namespace {

using workers::SlotState;
using workers::TaskChannel;

class DeferredReleaseTest : public FeedingTest {
 protected:
  static constexpr std::size_t kBytes = 8192;

  void SetUp() override {
    FeedingTest::SetUp();
    channel = std::make_shared<TaskChannel>(workers::ChannelShape{4, 1, 4, 64});
    channel->region().reserve(0, kBytes);
    memory = channel->region().payload(0, kBytes);
    channel->region().close_descriptor();
    for (std::size_t slot = 0; slot < 4; ++slot) channel->hold(slot);
    releases = make();
  }
  void TearDown() override {
    releases.reset();
    channel.reset();
    gpu.on_query = {};
    // The channel's descriptor was closed at once, so that what a test leaves for good is memory.
    FeedingTest::TearDown();
  }
  std::unique_ptr<DeferredRelease> make(
      std::chrono::milliseconds patience = std::chrono::seconds(30)) {
    return std::make_unique<DeferredRelease>(channel, gpu.pinning(), memory, kBytes, patience);
  }
  [[nodiscard]] bool is_free(std::size_t slot) {
    releases->release_finished();
    return channel->state(slot) == SlotState::Free;
  }
  [[nodiscard]] static c10::Stream side(int device = 0) {
    return c10::impl::VirtualGuardImpl(c10::kPrivateUse1)
        .getStreamFromGlobalPool(testing::FakeGpu::device(device));
  }

  std::shared_ptr<TaskChannel> channel;
  std::byte* memory = nullptr;
  std::unique_ptr<DeferredRelease> releases;
};

TEST_F(DeferredReleaseTest, SlotIsHeldUntilTheCurrentStreamHasDoneWhatItWasGiven) {
  gpu.enqueue([] {});
  releases->defer(1);
  gpu.enqueue([] {});  // later work does not count
  EXPECT_EQ(releases->count(), 1U);
  EXPECT_FALSE(is_free(1));
  EXPECT_TRUE(gpu.run_one(gpu.current()));
  EXPECT_FALSE(is_free(1));
  EXPECT_TRUE(gpu.run_one(gpu.current()));
  EXPECT_TRUE(is_free(1));
  EXPECT_EQ(releases->count(), 0U);
  EXPECT_EQ(gpu.pending(), 1U);
}

TEST_F(DeferredReleaseTest, TheStreamIsTheOneThatIsCurrentWhereTheReleaseIsDeferred) {
  const auto other = side();
  gpu.enqueue([] {});
  {
    const c10::StreamGuard guard(other);
    gpu.enqueue([] {});
    releases->defer(0);
  }
  releases->defer(2);
  gpu.run(gpu.current());
  EXPECT_FALSE(is_free(0));
  EXPECT_TRUE(is_free(2));
  gpu.run(other);
  EXPECT_TRUE(is_free(0));
}

TEST_F(DeferredReleaseTest, EveryDeviceInUseMustBeDone) {
  gpu.devices_in_use = {0, 1};
  const auto other = side(1);
  {
    const c10::StreamGuard guard(other);
    releases->defer(0);
  }
  gpu.run(gpu.current());
  EXPECT_FALSE(is_free(0));
  gpu.run(other);
  EXPECT_TRUE(is_free(0));
}

TEST_F(DeferredReleaseTest, DevicesThatAreNotInUseAreLeftAlone) {
  gpu.devices_in_use = {1};
  std::thread([&] { releases->defer(0); }).join();  // a thread that never used a device
  EXPECT_EQ(gpu.events_recorded, 1U);
  gpu.run_all();
  EXPECT_TRUE(is_free(0));
  gpu.devices_in_use = {};
  releases->defer(1);
  EXPECT_EQ(channel->state(1), SlotState::Free) << "nothing can read it";
  EXPECT_EQ(gpu.events_recorded, 1U);
}

TEST_F(DeferredReleaseTest, ACopyInAForkLeavesSlotsAndPinningAlone) {
  gpu.enqueue([] {});
  releases->defer(0);
  lockstep::testing::run_in_fork([&] {
    gpu.run_all();
    releases->release_finished();
    releases.reset();
    if (gpu.unpins != 0) throw std::runtime_error("unpinned");
  });
  EXPECT_EQ(channel->state(0), SlotState::Held) << "the device may still read it";
  gpu.run_all();
  EXPECT_TRUE(is_free(0));
}

TEST_F(DeferredReleaseTest, DeviceThatDoesNotAnswerIsAskedAgain) {
  gpu.fails_events = true;
  releases->defer(0);
  EXPECT_FALSE(is_free(0));
  EXPECT_FALSE(is_free(0));
  gpu.fails_events = false;
  EXPECT_FALSE(is_free(0)) << "marked only now";
  EXPECT_FALSE(is_free(0));
  gpu.run_all();
  EXPECT_TRUE(is_free(0));
  releases->defer(1);
  gpu.fails_events = true;
  EXPECT_FALSE(is_free(1));  // its event is no good
  gpu.fails_events = false;
  gpu.run_all();
  EXPECT_FALSE(is_free(1)) << "another one stands for it";
  gpu.run_all();
  EXPECT_TRUE(is_free(1));
}

TEST_F(DeferredReleaseTest, SlotsComeBackInAnyOrderFromAnyThread) {
  const auto other = side();
  std::thread([&] {
    const c10::StreamGuard guard(other);
    releases->defer(3);
  }).join();
  releases->defer(0);
  releases->defer(1);
  gpu.run(other);
  EXPECT_TRUE(is_free(3));
  EXPECT_EQ(releases->count(), 2U);
  gpu.run_all();
  EXPECT_TRUE(is_free(0) && is_free(1));
}

TEST_F(DeferredReleaseTest, TheEndWaitsForTheDevice) {
  gpu.copy_in(gpu.allocate(16)->data, memory, 16, nullptr);
  releases->defer(0);
  int queries = 0;
  gpu.on_query = [&] {
    if (++queries == 3) gpu.run_all();
  };
  releases.reset();  // FakeGpu complains about memory that is unpinned during a copy
  EXPECT_EQ(queries, 3);
  EXPECT_EQ(gpu.unpins, 1U);
  EXPECT_TRUE(logged().empty());
}

TEST_F(DeferredReleaseTest, TheEndLeavesTheMemoryToADeviceThatDoesNotFinish) {
  releases.reset();
  releases = make(std::chrono::milliseconds(20));
  gpu.patience = 1'000'000;
  gpu.copy_in(gpu.allocate(16)->data, memory, 16, nullptr);
  releases->defer(0);
  const auto unpins = gpu.unpins;
  releases.reset();
  channel.reset();
  EXPECT_EQ(gpu.unpins, unpins);
  ASSERT_EQ(logged().size(), 1U);
  EXPECT_NE(logged()[0].find("a device has not finished with 1 batches"), std::string::npos)
      << logged()[0];
  memory[0] = std::byte{1};  // still there
  EXPECT_TRUE(gpu.is_pinned(memory));
  gpu.pins = gpu.unpins;
}

TEST_F(DeferredReleaseTest, TheEndDoesNotWaitForADeviceThatDoesNotAnswer) {
  releases->defer(0);
  gpu.fails_events = true;
  const auto start = std::chrono::steady_clock::now();
  releases.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_EQ(gpu.unpins, 0U);
  EXPECT_EQ(logged().size(), 1U);
  gpu.pins = gpu.unpins;
}

TEST_F(DeferredReleaseTest, WhatCannotBePinnedIsAnErrorWithTheBytes) {
  gpu.fails_pinning = true;
  const auto message = message_of([&] { make(); });
  for (const char* part : {"8192 bytes", "4 slots", "out of memory", "pin_memory(false)"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace lockstep::data::detail
