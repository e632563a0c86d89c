// SPDX-License-Identifier: BSD-3-Clause
// Where a worker may have died, and what must be true afterwards.
#include "workers/channel_repair.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "unit/workers/channel_test_support.h"
#include "workers/item_word.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

// Where a worker may have died, and what must be true afterwards.
TEST(ChannelRepair, OpensEveryChunkOfTheDeadAndNoneOfTheLiving) {
  constexpr std::size_t kSlots = 3;
  constexpr std::size_t kChunks = 5;
  BareChannel channel({kSlots, 2, kChunks});
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    channel.write(slot, slot, kChunks);
    channel.claims.open(slot);
  }
  std::size_t of_the_dead = 0;
  for (std::size_t claim = 0; claim < kSlots * kChunks; ++claim) {
    const auto worker = claim % 3 == 1 ? 1U : 0U;
    ASSERT_TRUE(channel.claims.try_claim(worker));
    if (worker == 0) ++of_the_dead;
  }
  ChannelRepair(channel.layout, channel.events).repair(0, Poison::Fails);
  for (std::size_t claim = 0; claim < of_the_dead; ++claim) {
    const auto again = channel.claims.try_claim(1);
    ASSERT_TRUE(again) << claim;
    EXPECT_NE((again->slot * kChunks + again->chunk) % 3, 1U);
    channel.claims.conclude(again->slot, again->chunk, ChunkState::Done);
  }
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    EXPECT_EQ(channel.claims.claimer(slot), 1U);  // the living one is still at it
  }
}

TEST(ChannelRepair, RepairOpensWhatTheDeadHadAndCountsWhatTheyHadDone) {
  TaskChannel channel({1, 2, 4, 0});
  const auto items = numbers(0, 3);
  channel.assign(0, task(1, items));
  const auto held = channel.claim(0);  // the others are worker 1's
  channel.finish(*channel.claim(1));
  channel.begin_item(0, 0, held->first);
  channel.repair(0, Poison::Fails);
  auto again = channel.claim(1);
  EXPECT_EQ(again->chunk, 0U);  // the lowest first
  channel.finish(*again);
  channel.finish(*channel.claim(1));
  EXPECT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_FALSE(channel.failures().first(0));
}

TEST(ChannelRepair, SecondDeathAtTheSameItemIsAFailureOrSkipsIt) {
  for (const bool skip : {false, true}) {
    TaskChannel channel({1, 1, 4, 0});
    const auto items = numbers(5, 2);
    channel.assign(0, task(1, items));
    for (int death = 0; death < 2; ++death) {
      const auto claim = channel.claim(0);
      EXPECT_EQ(claim->items[0], 5);
      channel.begin_item(0, 0, claim->first);
      channel.table().workers[0].wait_status.store(9);
      channel.repair(0, skip ? Poison::IsLeftOut : Poison::Fails);
    }
    const auto other = channel.claim(0);
    EXPECT_EQ(other->items[0], 6);
    channel.finish(*other);
    ASSERT_EQ(channel.state(0), SlotState::Ready);
    EXPECT_EQ(channel.items().is_skipped(0, 0), skip);
    ASSERT_EQ(channel.failures().first(0).has_value(), !skip);
    if (skip) continue;
    EXPECT_EQ(channel.failures().first(0)->kind, FailureKind::Ended);
    EXPECT_EQ(channel.failures().first(0)->wait_status, 9);
    EXPECT_EQ(channel.failures().first(0)->position, 0U);
  }
}

// A death between two items says nothing about them.
TEST(ChannelRepair, DeathWithNoCurrentItemDoesNotCount) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 1);
  channel.assign(0, task(1, items));
  for (int death = 0; death < 5; ++death) {
    EXPECT_TRUE(channel.claim(0));
    channel.repair(0, Poison::Fails);
  }
  channel.finish(*channel.claim(0));
  EXPECT_FALSE(channel.failures().first(0));
}

TEST(ChannelRepair, PoisonInALargeChunkIsLeftOutAlone) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 3);
  channel.assign(0, task(1, items, 3));
  // Deaths at different items are not one item's fault.
  for (const std::size_t position : {0U, 1U, 2U, 2U}) {
    EXPECT_EQ(channel.claim(0)->items[2], 7);
    channel.begin_item(0, 0, position);
    channel.repair(0, Poison::IsLeftOut);
  }
  const auto claim = channel.claim(0);
  EXPECT_EQ(claim->items[0], 5);
  EXPECT_EQ(claim->items[1], 6);
  EXPECT_EQ(claim->items[2], kLeftOut);
}

TEST(ChannelRepair, PoisonIsMarkedToBeReplacedAndFailsAtThreeMoreDeaths) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, task(1, items));
  for (int death = 0; death < 5; ++death) {
    EXPECT_EQ(channel.items().at(0, 0), death < 2 ? 5 : to_be_replaced(5));
    const auto claim = channel.claim(0);
    EXPECT_EQ(claim->first, 0U);
    channel.begin_item(0, 0, claim->first);
    channel.repair(0, Poison::IsReplaced);
  }
  EXPECT_EQ(item_of(channel.items().at(0, 0)), 5);
  channel.finish(*channel.claim(0));
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_EQ(channel.failures().first(0)->position, 0U);
}

// While it looks for what could replace the item of its own chunk.
TEST(ChannelRepair, DeathsAtAnothersItemAreThatItemsFault) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, task(1, items));
  for (const std::size_t position : {0U, 1U, 1U}) {
    EXPECT_EQ(channel.claim(0)->first, 0U);
    channel.begin_item(0, 0, position);
    channel.repair(0, Poison::IsLeftOut);
  }
  EXPECT_TRUE(channel.items().is_left_out(0, 1));
  EXPECT_FALSE(channel.items().is_left_out(0, 0));
  channel.finish(*channel.claim(0));
  channel.finish(*channel.claim(0));
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_FALSE(channel.failures().first(0));
}

// At no item, and at an item that had to be fetched once more.
TEST(ChannelRepair, SecondDeathAtTheCollateTask) {
  for (const bool skip : {false, true}) {
    for (const std::size_t position : {CurrentItem::kNoItem, std::size_t{1}}) {
      TaskChannel channel({1, 1, 4, 0});
      const auto items = numbers(5, 2);
      channel.assign(0, collate_task(1, items));
      for (int i = 0; i < 2; ++i) channel.finish(*channel.claim(0));
      for (int death = 0; death < 2; ++death) {
        EXPECT_TRUE(channel.claim(0)->is_collate);
        channel.begin_item(0, 0, position);
        channel.repair(0, skip ? Poison::IsLeftOut : Poison::Fails);
      }
      if (skip && position != CurrentItem::kNoItem) {
        const auto collate = channel.claim(0);
        EXPECT_EQ(collate->items[0], 5);
        EXPECT_EQ(collate->items[1], kLeftOut);
        continue;
      }
      ASSERT_EQ(channel.state(0), SlotState::Ready);
      EXPECT_EQ(channel.failures().first(0)->position, position == CurrentItem::kNoItem ? 0U : 1U);
    }
  }
}

TEST(ChannelRepair, FailureSaysWhyTheWorkerWasKilled) {
  constexpr std::array<std::pair<KillReason, FailureKind>, 3> kCases{
      {{KillReason::None, FailureKind::Ended},
       {KillReason::NoProgress, FailureKind::NoProgress},
       {KillReason::TooMuchMemory, FailureKind::TooMuchMemory}}};
  for (const auto& [reason, kind] : kCases) {
    TaskChannel channel({1, 1, 1});
    const auto items = numbers(5, 1);
    channel.assign(0, task(1, items));
    for (int death = 0; death < 2; ++death) {
      const auto claim = channel.claim(0);
      channel.begin_item(0, 0, claim->first);
      channel.table().workers[0].kill_reason = reason;
      channel.table().workers[0].pid = 17;
      channel.repair(0, Poison::Fails);
    }
    ASSERT_EQ(channel.state(0), SlotState::Ready);
    EXPECT_EQ(channel.failures().first(0)->kind, kind);
    EXPECT_EQ(channel.failures().first(0)->pid, 17);
  }
}

}  // namespace
}  // namespace lockstep::workers
