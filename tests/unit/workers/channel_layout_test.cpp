// SPDX-License-Identifier: BSD-3-Clause
#include "workers/channel_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <vector>

#include "unit/workers/channel_test_support.h"

namespace lockstep::workers {
namespace {

TEST(ChannelLayout, NothingOverlapsAndAllOfItIsInside) {
  for (const bool has_item_blocks : {false, true}) {
    const ChannelShape shape{3, 2, 5, 100, has_item_blocks};
    const auto bytes = ChannelLayout::bytes_for(shape);
    std::vector<CacheLine> memory(bytes / sizeof(CacheLine));
    const auto control = std::as_writable_bytes(std::span(memory));
    ASSERT_EQ(control.size(), bytes);
    const auto layout = ChannelLayout::create(control, shape);
    std::vector<int> uses(bytes);
    const auto use = [&](const void* place, std::size_t size) {
      const auto first = static_cast<const std::byte*>(place) - control.data();
      for (std::size_t at = 0; at < size; ++at) ++uses.at(static_cast<std::size_t>(first) + at);
      EXPECT_EQ(first % static_cast<std::ptrdiff_t>(ChannelLayout::kLine), 0);
    };
    use(control.data(), sizeof(std::uint64_t));  // what the region reads
    ++uses.at(static_cast<std::size_t>(reinterpret_cast<std::byte*>(&layout.space_taken()) -
                                       control.data()));
    use(&layout.events(), sizeof(PoolEventWords));
    use(layout.workers().data(), layout.workers().size_bytes());
    use(layout.user_area(), shape.user_bytes);
    for (std::size_t slot = 0; slot < shape.slots; ++slot) {
      use(&layout.slot(slot), sizeof(SlotWords));
      use(layout.failures(slot), (layout.failures_per_slot() + 1) * sizeof(FailureRecord));
      use(layout.chunks(slot), layout.chunks_per_slot() * sizeof(std::uint32_t));
      use(layout.ends(slot), layout.chunks_per_slot() * sizeof(std::uint32_t));
      use(layout.items(slot), shape.items_per_slot * sizeof(std::int64_t));
      use(layout.blocks(slot), layout.blocks_per_slot() * sizeof(BlockWords));
    }
    EXPECT_TRUE(std::all_of(uses.begin(), uses.end(), [](int count) { return count <= 1; }));
  }
}

TEST(ChannelLayout, OpensWhatWasCreatedAndNothingElse) {
  const ChannelShape shape{2, 1, 3, 8, true};
  std::vector<CacheLine> memory(ChannelLayout::bytes_for(shape) / sizeof(CacheLine));
  const auto control = std::as_writable_bytes(std::span(memory));
  EXPECT_THROW(static_cast<void>(ChannelLayout::open(control)), std::system_error);
  const auto layout = ChannelLayout::create(control, shape);
  const auto other = ChannelLayout::open(control);
  EXPECT_EQ(other.shape().items_per_slot, 3U);
  EXPECT_EQ(other.blocks(1), layout.blocks(1));
  EXPECT_THROW(static_cast<void>(ChannelLayout::open(control.first(8))), std::system_error);
}

TEST(ChannelLayout, RefusesMoreItemsThanAnyMachineHolds) {
  EXPECT_THROW(static_cast<void>(ChannelLayout::bytes_for({2, 1, std::size_t{1} << 60})),
               std::system_error);
}

}  // namespace
}  // namespace lockstep::workers
