// SPDX-License-Identifier: BSD-3-Clause
// Who works at what, with threads as workers, so that ThreadSanitizer sees the words.
#include "workers/claim_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "unit/workers/channel_test_support.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

TEST(ClaimTable, ChunksAreClaimedFromTheOldestTaskFirst) {
  TaskChannel channel({3, 2, 8, 0});
  const auto items = numbers(10, 5);
  channel.assign(2, task(7, items, 2));
  channel.assign(0, task(8, items));
  std::vector<std::size_t> firsts;
  std::vector<std::size_t> sizes;
  for (int i = 0; i < 3; ++i) {
    const auto claim = channel.claim(static_cast<std::size_t>(i % 2));
    EXPECT_EQ(claim->slot, 2U);
    firsts.push_back(claim->first);
    sizes.push_back(claim->items.size());
    EXPECT_EQ(channel.state(2), SlotState::Filling);
    channel.finish(*claim);
  }
  EXPECT_EQ(firsts, (std::vector<std::size_t>{0, 2, 4}));
  EXPECT_EQ(sizes, (std::vector<std::size_t>{2, 2, 1}));
  EXPECT_EQ(channel.state(2), SlotState::Ready);
  EXPECT_FALSE(channel.failures().first(2));
  EXPECT_EQ(channel.claim(0)->slot, 0U);
}

TEST(ClaimTable, TaskOfOneWorkerIsLeftToIt) {
  TaskChannel channel({2, 2, 4, 0});
  const auto items = numbers(0, 1);
  auto own = task(1, items);
  own.worker = 1;
  channel.assign(0, own);
  channel.assign(1, task(2, items));
  EXPECT_EQ(channel.claim(0)->slot, 1U);
  EXPECT_EQ(channel.claim(1)->slot, 0U);
}

TEST(ClaimTable, SlotsThatWereNeverFilledAreNotLookedAt) {
  BareChannel channel({1000, 1, 1, 0});
  // As if it were filled, with the oldest task.
  channel.write(10, 1, 1);
  channel.layout.chunks(10)[0] = chunk_word(ChunkState::Open);
  channel.layout.slot(10).state = with_state(0, SlotState::Filling);
  EXPECT_FALSE(channel.claims.try_claim(0));
  for (const std::size_t slot : {3U, 1U}) {
    channel.write(slot, 10 - slot, 1);
    channel.claims.open(slot);
    EXPECT_EQ(channel.layout.slots_used(), 4U);
  }
  const auto first = channel.claims.try_claim(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->slot, 3U);
  const auto second = channel.claims.try_claim(0);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->slot, 1U);
  EXPECT_FALSE(channel.claims.has_older_open(*second, 0));
  EXPECT_FALSE(channel.claims.try_claim(0));
}

TEST(ClaimTable, CollateTaskWaitsForAllOthers) {
  TaskChannel channel({2, 3, 4, 0});
  const auto items = numbers(5, 3);
  channel.assign(0, collate_task(1, items));
  channel.assign(1, task(2, items));
  const auto a = channel.claim(0);
  const auto b = channel.claim(1);
  channel.finish(*channel.claim(2));
  channel.finish(*a);
  EXPECT_EQ(channel.claim(0)->slot, 1U);  // b is still at the first
  channel.finish(*b);
  const auto collate = channel.claim(1);
  EXPECT_EQ(collate->slot, 0U);
  EXPECT_TRUE(collate->is_collate);
  EXPECT_EQ(collate->items.size(), 3U);
  EXPECT_EQ(collate->items[2], 7);
  EXPECT_EQ(channel.state(0), SlotState::Filling);
  EXPECT_EQ(channel.claim(2)->slot, 1U);  // it is claimed once
  channel.finish(*collate);
  EXPECT_EQ(channel.state(0), SlotState::Ready);
}

TEST(ClaimTable, CollateTaskIsFutileAfterAnyFailure) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, collate_task(1, items));
  channel.finish(*channel.claim(0));
  Failure failure;
  failure.position = 1;
  channel.fail(*channel.claim(0), failure);
  const auto collate = channel.claim(0);
  EXPECT_TRUE(collate->is_collate);
  EXPECT_TRUE(channel.is_futile(*collate));
  channel.finish(*collate);
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_EQ(channel.failures().first(0)->position, 1U);
}

// Several workers come to the same chunks at the same moments, again and again.
TEST(ClaimTable, AChunkIsClaimedByOneWorker) {
  constexpr std::uint32_t kChunks = 20'000;
  constexpr std::size_t kWorkers = 3;
  BareChannel channel({1, kWorkers, kChunks});
  for (std::uint64_t round = 0; round < 40; ++round) {
    std::vector<std::atomic<int>> claims(kChunks);
    std::atomic<std::size_t> ready{0};
    channel.write(0, round, kChunks);
    channel.claims.open(0);
    std::vector<std::thread> workers;
    for (std::size_t worker = 0; worker < kWorkers; ++worker) {
      workers.emplace_back([&, worker] {
        for (++ready; ready < kWorkers;) std::this_thread::yield();
        while (const auto claim = channel.claims.try_claim(worker)) {
          ++claims[claim->chunk];
          channel.claims.conclude(0, claim->chunk, ChunkState::Done);
        }
      });
    }
    for (auto& worker : workers) worker.join();
    ASSERT_EQ(std::count(claims.begin(), claims.end(), 1), kChunks) << "in round " << round;
    ASSERT_EQ(slot_state(channel.layout.slot(0).state), SlotState::Ready);
  }
}

// Counters and hints say where to look; what is true stands in the chunks' words.
TEST(ClaimTable, AHintThatIsTooLowCostsALookOnly) {
  BareChannel channel({1, 1, 4});
  channel.write(0, 1, 4);
  channel.claims.open(0);
  for (std::size_t chunk = 0; chunk < 4; ++chunk) {
    channel.layout.slot(0).hint = 0;
    EXPECT_EQ(channel.claims.try_claim(0)->chunk, chunk);
  }
  channel.layout.slot(0).hint = 0;
  EXPECT_FALSE(channel.claims.try_claim(0));
}

TEST(ClaimTable, AChunkThatIsOpenedAgainIsFound) {
  BareChannel channel({1, 2, 4});
  channel.write(0, 1, 4);
  channel.claims.open(0);
  for (std::size_t chunk = 0; chunk < 4; ++chunk) EXPECT_TRUE(channel.claims.try_claim(0));
  EXPECT_FALSE(channel.claims.try_claim(1));
  channel.claims.reopen(0, 2, 0);
  EXPECT_EQ(channel.claims.try_claim(1)->chunk, 2U);
}

// It read the hint, and moves it now that a chunk before has been opened again.
TEST(ClaimTable, ALateClaimerDoesNotMoveTheHintPastAnOpenChunk) {
  BareChannel channel({1, 2, 4});
  channel.write(0, 1, 4);
  channel.claims.open(0);
  auto& hint = channel.layout.slot(0).hint;
  auto seen = hint.load();
  EXPECT_EQ(channel.claims.try_claim(0)->chunk, 0U);
  channel.claims.reopen(0, 0, 0);
  EXPECT_FALSE(hint.compare_exchange_strong(seen, seen | 4U));
  EXPECT_EQ(channel.claims.try_claim(1)->chunk, 0U);
}

// It may die between the word of its last chunk and the count of those that are finished.
TEST(ClaimTable, ASuspectSlotIsCompletedByTheWordsAlone) {
  BareChannel channel({1, 2, 2});
  channel.write(0, 1, 2);
  channel.claims.open(0);
  const auto a = channel.claims.try_claim(0);
  const auto b = channel.claims.try_claim(1);
  channel.layout.chunks(0)[a->chunk] = chunk_word(ChunkState::Done);  // and then it was killed
  channel.claims.suspect(0);
  channel.claims.conclude(0, b->chunk, ChunkState::Done);
  EXPECT_EQ(slot_state(channel.layout.slot(0).state), SlotState::Ready);
}

// It may die after it has opened a chunk again that it took too early, and before it moved the
// hint.
TEST(ClaimTable, ASuspectSlotsHintsBeginAnew) {
  BareChannel channel({1, 2, 2});
  channel.write(0, 1, 2);
  channel.claims.open(0);
  EXPECT_TRUE(channel.claims.try_claim(0));
  EXPECT_TRUE(channel.claims.try_claim(0));
  channel.layout.chunks(0)[0] = chunk_word(ChunkState::Open);
  EXPECT_FALSE(channel.claims.try_claim(1));
  channel.claims.suspect(0);
  EXPECT_EQ(channel.claims.try_claim(1)->chunk, 0U);
}

TEST(ClaimTable, KnowsWhatIsOpenBeforeAClaim) {
  BareChannel channel({3, 2, 4});
  channel.write(1, 1, 2);
  channel.write(0, 2, 2);
  channel.write(2, 0, 1);  // the oldest, and not this worker's
  channel.layout.slot(2).worker = 1;
  for (std::size_t slot = 0; slot < 3; ++slot) channel.claims.open(slot);
  const auto first = channel.claims.try_claim(0);
  const auto second = channel.claims.try_claim(0);
  const auto later = channel.claims.try_claim(0);
  ASSERT_EQ(later->slot, 0U);
  // Behind it there is one, before it there is none.
  EXPECT_FALSE(channel.claims.has_older_open(*later, 0));
  EXPECT_FALSE(channel.claims.has_older_open(*second, 0));
  EXPECT_TRUE(channel.claims.has_older_open(*later, 1));
  channel.claims.give_back(*first);
  EXPECT_TRUE(channel.claims.has_older_open(*second, 0));
  EXPECT_TRUE(channel.claims.has_older_open(*later, 0));
  EXPECT_EQ(channel.claims.try_claim(0)->chunk, first->chunk);
}

// What it had ended before counts on.
TEST(ClaimTable, AChunkThatIsGivenBackKeepsItsAttempts) {
  BareChannel channel({1, 2, 1});
  channel.write(0, 1, 1);
  channel.claims.open(0);
  EXPECT_TRUE(channel.claims.try_claim(0));
  channel.claims.reopen(0, 0, 1);
  channel.claims.give_back(*channel.claims.try_claim(1));
  EXPECT_EQ(attempts_of(channel.layout.chunks(0)[0]), 1U);
}

TEST(ClaimTable, NamesTheFirstClaimer) {
  BareChannel channel({1, 3, 2});
  channel.write(0, 1, 2);
  channel.claims.open(0);
  EXPECT_FALSE(channel.claims.claimer(0));
  EXPECT_EQ(channel.claims.try_claim(2)->chunk, 0U);
  EXPECT_TRUE(channel.claims.try_claim(1));
  EXPECT_EQ(channel.claims.claimer(0), 2U);
  channel.claims.conclude(0, 0, ChunkState::Done);
  EXPECT_EQ(channel.claims.claimer(0), 1U);
  EXPECT_EQ(channel.claims.finished(0), 1U);
}

}  // namespace
}  // namespace lockstep::workers
