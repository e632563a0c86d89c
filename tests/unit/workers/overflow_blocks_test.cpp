// SPDX-License-Identifier: BSD-3-Clause
#include "workers/overflow_blocks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <system_error>

#include "unit/workers/channel_test_support.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

std::int64_t bytes_in(TaskChannel& channel) {
  struct stat info {};
  EXPECT_EQ(::fstat(channel.region().descriptor(), &info), 0);
  return info.st_blocks * 512;
}

TEST(OverflowBlocks, BlocksAreGivenBack) {
  constexpr std::size_t kBytes = 100'000;
  constexpr auto kLast = OverflowBlocks::kFirstItem + 2;
  TaskChannel channel({1, 1, 4, 0, true});
  const auto items = numbers(0, 3);
  const auto empty = bytes_in(channel);
  channel.assign(0, collate_task(1, items));
  EXPECT_FALSE(channel.blocks().map(0, kLast));
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second after a death
    channel.blocks().make(0, kLast, kBytes).data()[kBytes - 1] = std::byte{5};
    EXPECT_FALSE(channel.blocks().map(0, kLast));  // it may be written in part only
  }
  channel.blocks().publish(0, kLast);
  EXPECT_LT(bytes_in(channel), empty + 2 * static_cast<std::int64_t>(kBytes));
  EXPECT_EQ(channel.blocks().map(0, kLast)->data()[kBytes - 1], std::byte{5});
  static_cast<void>(channel.blocks().make(0, OverflowBlocks::kResult, 1));
  channel.blocks().publish(0, OverflowBlocks::kResult);
  channel.blocks().free_all(0, OverflowBlocks::kFirstItem);
  EXPECT_FALSE(channel.blocks().map(0, kLast));
  EXPECT_TRUE(channel.blocks().map(0, OverflowBlocks::kResult));
  channel.blocks().free_all(0);
  EXPECT_EQ(bytes_in(channel), empty);
  EXPECT_THROW(static_cast<void>(channel.blocks().make(0, kLast, std::size_t{1} << 50)),
               std::system_error);
  EXPECT_FALSE(channel.blocks().map(0, kLast));
  // A worker that was given other facts than the owner has.
  TaskChannel without({1, 1, 4, 0});
  without.assign(0, task(1, items));
  EXPECT_THROW(static_cast<void>(without.blocks().make(0, kLast, 1)), std::out_of_range);
}

// The place of a block is nobody's from then on, or somebody else's.
TEST(OverflowBlocks, ABlockIsFreedOnce) {
  constexpr std::size_t kBytes = 4096;
  const ChannelShape shape{1, 1, 1};
  native::SharedMemoryRegion region(ChannelLayout::bytes_for(shape));
  const auto layout = ChannelLayout::create({region.control(), region.control_bytes()}, shape);
  OverflowBlocks blocks(region, layout);
  static_cast<void>(blocks.make(0, OverflowBlocks::kResult, kBytes));
  blocks.publish(0, OverflowBlocks::kResult);
  blocks.free(0, OverflowBlocks::kResult);
  const std::size_t offset = layout.blocks(0)[OverflowBlocks::kResult].offset;
  region.reserve(offset, kBytes);
  const auto others = region.map(offset, kBytes);
  others.data()[0] = std::byte{7};
  blocks.free(0, OverflowBlocks::kResult);
  blocks.free_all(0);
  EXPECT_EQ(others.data()[0], std::byte{7});
}

TEST(OverflowBlocks, AResultThatWasTakenStaysWhenItsSlotIsUsedAgain) {
  TaskChannel channel({1, 1, 1});
  const auto items = numbers(0, 1);
  channel.assign(0, task(1, items));
  channel.blocks().make(0, OverflowBlocks::kResult, 1).data()[0] = std::byte{7};
  channel.blocks().publish(0, OverflowBlocks::kResult);
  channel.finish(*channel.claim(0));
  auto taken = channel.blocks().map(0, OverflowBlocks::kResult);
  channel.release(0);
  channel.assign(0, task(2, items));
  EXPECT_FALSE(channel.blocks().map(0, OverflowBlocks::kResult));
  channel.blocks().free_all(0);
  EXPECT_EQ(taken->data()[0], std::byte{7});
  taken->drop();
}

TEST(OverflowBlocks, NobodyGetsTheSameSpaceTwice) {
  TaskChannel channel({1, 1, 1});
  const auto first = channel.blocks().take_space(1);
  const auto second = channel.blocks().take_space(5000);
  EXPECT_GT(second, first);
  EXPECT_GE(channel.blocks().take_space(1), second + 5000);
}

}  // namespace
}  // namespace lockstep::workers
