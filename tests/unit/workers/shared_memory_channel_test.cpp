// SPDX-License-Identifier: BSD-3-Clause
// The words between a rank and its workers, with threads as workers, so that ThreadSanitizer sees
// them.
#include "workers/shared_memory_channel.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "workers/chunk_state.h"

namespace lockstep::workers {
namespace {

constexpr std::uint64_t kAny = PoolEventWords::kAny - 1;
using std::chrono::seconds;

std::vector<std::int64_t> numbers(std::int64_t first, std::size_t count) {
  std::vector<std::int64_t> items(count);
  std::iota(items.begin(), items.end(), first);
  return items;
}

Task task(std::uint64_t sequence, const std::vector<std::int64_t>& items, std::size_t chunk = 1) {
  Task result;
  result.sequence = sequence;
  result.items = items;
  result.items_per_chunk = chunk;
  return result;
}

TEST(WorkerChannel, ChunksAreClaimedFromTheOldestTaskFirst) {
  SharedMemoryChannel channel({3, 2, 8, 0});
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
  EXPECT_FALSE(channel.failure(2));
  EXPECT_EQ(channel.claim(0)->slot, 0U);
}

TEST(WorkerChannel, LowestFailureIsReported) {
  SharedMemoryChannel channel({1, 3, 8, 0});
  const auto items = numbers(0, 3);
  channel.assign(0, task(1, items));
  const auto a = channel.claim(0);
  const auto b = channel.claim(1);
  const auto c = channel.claim(2);
  Failure failure;
  failure.position = 2;
  failure.message = "third";
  channel.fail(*c, failure);
  failure.position = 0;
  failure.worker = 1;
  failure.type = "T";
  failure.message = std::string(5000, 'x');
  EXPECT_FALSE(channel.is_futile(*b));
  channel.fail(*a, failure);
  EXPECT_TRUE(channel.is_futile(*b));  // what comes after a failure is of no use
  EXPECT_EQ(channel.state(0), SlotState::Filling);
  failure.position = 1;
  channel.fail(*b, failure);
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  const auto found = channel.failure(0);
  EXPECT_EQ(found->position, 0U);
  EXPECT_EQ(found->worker, 1U);
  EXPECT_EQ(found->type, "T");
  EXPECT_EQ(found->message.substr(0, 3), "xxx");
  EXPECT_LT(found->message.size(), 5000U);
}

// Where a worker may have died, and what must be true afterwards.
TEST(WorkerChannel, RepairOpensWhatTheDeadHadAndCountsWhatTheyHadDone) {
  SharedMemoryChannel channel({1, 2, 4, 0});
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
  EXPECT_FALSE(channel.failure(0));
}

TEST(WorkerChannel, SecondDeathAtTheSameItemIsAFailureOrSkipsIt) {
  for (const bool skip : {false, true}) {
    SharedMemoryChannel channel({1, 1, 4, 0});
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
    EXPECT_EQ(channel.is_skipped(0, 0), skip);
    ASSERT_EQ(channel.failure(0).has_value(), !skip);
    if (skip) continue;
    EXPECT_EQ(channel.failure(0)->kind, FailureKind::Ended);
    EXPECT_EQ(channel.failure(0)->wait_status, 9);
    EXPECT_EQ(channel.failure(0)->position, 0U);
  }
}

// A death between two items says nothing about them.
TEST(WorkerChannel, DeathWithNoCurrentItemDoesNotCount) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 1);
  channel.assign(0, task(1, items));
  for (int death = 0; death < 5; ++death) {
    EXPECT_TRUE(channel.claim(0));
    channel.repair(0, Poison::Fails);
  }
  channel.finish(*channel.claim(0));
  EXPECT_FALSE(channel.failure(0));
}

TEST(WorkerChannel, PoisonInALargeChunkIsLeftOutAlone) {
  SharedMemoryChannel channel({1, 1, 4, 0});
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
  EXPECT_EQ(claim->items[2], kLeftOut);
}

TEST(WorkerChannel, PoisonIsMarkedToBeReplacedAndFailsAtThreeMoreDeaths) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, task(1, items));
  for (int death = 0; death < 5; ++death) {
    EXPECT_EQ(channel.item(0, 0), death < 2 ? 5 : to_be_replaced(5));
    const auto claim = channel.claim(0);
    EXPECT_EQ(claim->first, 0U);
    channel.begin_item(0, 0, claim->first);
    channel.repair(0, Poison::IsReplaced);
  }
  EXPECT_EQ(item_of(channel.item(0, 0)), 5);
  channel.finish(*channel.claim(0));
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_EQ(channel.failure(0)->position, 0U);
}

// While it looks for what could replace the item of its own chunk.
TEST(WorkerChannel, DeathsAtAnothersItemAreThatItemsFault) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, task(1, items));
  for (const std::size_t position : {0U, 1U, 1U}) {
    EXPECT_EQ(channel.claim(0)->first, 0U);
    channel.begin_item(0, 0, position);
    channel.repair(0, Poison::IsLeftOut);
  }
  EXPECT_TRUE(channel.is_left_out(0, 1));
  EXPECT_FALSE(channel.is_left_out(0, 0));
  channel.finish(*channel.claim(0));
  channel.finish(*channel.claim(0));
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_FALSE(channel.failure(0));
}

TEST(WorkerChannel, NoteIsOfTheFirstItemAndOfThisTask) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  for (const std::uint64_t sequence : {1U, 2U}) {
    channel.assign(0, task(sequence, items));
    EXPECT_FALSE(channel.noted(0));
    EXPECT_EQ(channel.replaced(0), 0U);
    for (int i = 0; i < 2; ++i) {
      const auto claim = channel.claim(0);
      Failure failure;
      failure.item = claim->items[0];
      failure.message = "broken";
      channel.note(0, failure);
      channel.replace(0, claim->first, 7);
      channel.finish(*claim);
    }
    ASSERT_EQ(channel.state(0), SlotState::Ready);
    EXPECT_FALSE(channel.failure(0));
    EXPECT_EQ(channel.noted(0)->item, 5);
    EXPECT_EQ(channel.noted(0)->message, "broken");
    EXPECT_EQ(channel.replaced(0), 2U);
    EXPECT_EQ(channel.items(0)[1], 7);
    channel.release(0);
  }
}

TEST(WorkerChannel, TaskOfOneWorkerIsLeftToIt) {
  SharedMemoryChannel channel({2, 2, 4, 0});
  const auto items = numbers(0, 1);
  auto own = task(1, items);
  own.worker = 1;
  channel.assign(0, own);
  channel.assign(1, task(2, items));
  EXPECT_EQ(channel.claim(0)->slot, 1U);
  EXPECT_EQ(channel.claim(1)->slot, 0U);
}

Task collate_task(std::uint64_t sequence, const std::vector<std::int64_t>& items,
                  std::size_t chunk = 1) {
  auto result = task(sequence, items, chunk);
  result.has_collate_task = true;
  return result;
}

TEST(WorkerChannel, CollateTaskWaitsForAllOthers) {
  SharedMemoryChannel channel({2, 3, 4, 0});
  const auto items = numbers(5, 3);
  channel.assign(0, collate_task(1, items));
  channel.assign(1, task(2, items));
  const auto a = channel.claim(0);
  const auto b = channel.claim(1);
  channel.finish(*channel.claim(2));
  channel.finish(*a);
  EXPECT_EQ(channel.claim(0)->slot, 1U);  // b is still at the first
  channel.finish(*b);
  const auto closing = channel.claim(1);
  EXPECT_EQ(closing->slot, 0U);
  EXPECT_TRUE(closing->is_collate);
  EXPECT_EQ(closing->items.size(), 3U);
  EXPECT_EQ(closing->items[2], 7);
  EXPECT_EQ(channel.state(0), SlotState::Filling);
  EXPECT_EQ(channel.claim(2)->slot, 1U);  // it is claimed once
  channel.finish(*closing);
  EXPECT_EQ(channel.state(0), SlotState::Ready);
}

TEST(WorkerChannel, CollateTaskIsFutileAfterAnyFailure) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  channel.assign(0, collate_task(1, items));
  channel.finish(*channel.claim(0));
  Failure failure;
  failure.position = 1;
  channel.fail(*channel.claim(0), failure);
  const auto closing = channel.claim(0);
  EXPECT_TRUE(closing->is_collate);
  EXPECT_TRUE(channel.is_futile(*closing));
  channel.finish(*closing);
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  EXPECT_EQ(channel.failure(0)->position, 1U);
}

// At no item, and at an item that had to be fetched once more.
TEST(WorkerChannel, SecondDeathAtTheCollateTask) {
  for (const bool skip : {false, true}) {
    for (const std::size_t position : {kNoItem, std::size_t{1}}) {
      SharedMemoryChannel channel({1, 1, 4, 0});
      const auto items = numbers(5, 2);
      channel.assign(0, collate_task(1, items));
      for (int i = 0; i < 2; ++i) channel.finish(*channel.claim(0));
      for (int death = 0; death < 2; ++death) {
        EXPECT_TRUE(channel.claim(0)->is_collate);
        channel.begin_item(0, 0, position);
        channel.repair(0, skip ? Poison::IsLeftOut : Poison::Fails);
      }
      if (skip && position != kNoItem) {
        const auto closing = channel.claim(0);
        EXPECT_EQ(closing->items[0], 5);
        EXPECT_EQ(closing->items[1], kLeftOut);
        continue;
      }
      ASSERT_EQ(channel.state(0), SlotState::Ready);
      EXPECT_EQ(channel.failure(0)->position, position == kNoItem ? 0U : 1U);
    }
  }
}

TEST(WorkerChannel, CollateTaskIsWithdrawnWithTheOthers) {
  SharedMemoryChannel channel({1, 2, 4, 0});
  const auto items = numbers(0, 2);
  channel.assign(0, collate_task(1, items));
  const auto claim = channel.claim(0);
  EXPECT_FALSE(channel.withdraw(0));
  channel.finish(*claim);
  EXPECT_TRUE(channel.withdraw(0));
  EXPECT_EQ(channel.state(0), SlotState::Free);
}

std::int64_t bytes_in(SharedMemoryChannel& channel) {
  struct stat info {};
  EXPECT_EQ(::fstat(channel.region().descriptor(), &info), 0);
  return info.st_blocks * 512;
}

TEST(WorkerChannel, PiecesAreGivenBack) {
  constexpr std::size_t kBytes = 100'000;
  constexpr auto kLast = SharedMemoryChannel::kItemBlocks + 2;
  SharedMemoryChannel channel({1, 1, 4, 0, true});
  const auto items = numbers(0, 3);
  const auto empty = bytes_in(channel);
  channel.assign(0, collate_task(1, items));
  EXPECT_FALSE(channel.map_block(0, kLast));
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second after a death
    channel.make_block(0, kLast, kBytes).data()[kBytes - 1] = std::byte{5};
    EXPECT_FALSE(channel.map_block(0, kLast));  // it may be written in part only
  }
  channel.publish_block(0, kLast);
  EXPECT_LT(bytes_in(channel), empty + 2 * static_cast<std::int64_t>(kBytes));
  EXPECT_EQ(channel.map_block(0, kLast)->data()[kBytes - 1], std::byte{5});
  static_cast<void>(channel.make_block(0, SharedMemoryChannel::kResultBlock, 1));
  channel.publish_block(0, SharedMemoryChannel::kResultBlock);
  channel.free_blocks(0, SharedMemoryChannel::kItemBlocks);
  EXPECT_FALSE(channel.map_block(0, kLast));
  EXPECT_TRUE(channel.map_block(0, SharedMemoryChannel::kResultBlock));
  channel.free_blocks(0);
  EXPECT_EQ(bytes_in(channel), empty);
  EXPECT_THROW(static_cast<void>(channel.make_block(0, kLast, std::size_t{1} << 50)),
               std::system_error);
  EXPECT_FALSE(channel.map_block(0, kLast));
  // A worker that was given other facts than the owner has.
  SharedMemoryChannel without({1, 1, 4, 0});
  without.assign(0, task(1, items));
  EXPECT_THROW(static_cast<void>(without.make_block(0, kLast, 1)), std::out_of_range);
}

TEST(WorkerChannel, WithdrawnSlotIsFreeWhenNobodyIsAtIt) {
  SharedMemoryChannel channel({1, 1, 4, 0});
  const auto items = numbers(0, 3);
  channel.assign(0, task(1, items));
  const auto claim = channel.claim(0);
  EXPECT_FALSE(channel.withdraw(0));
  EXPECT_TRUE(channel.is_futile(*claim));
  channel.finish(*claim);
  EXPECT_TRUE(channel.withdraw(0));
  EXPECT_EQ(channel.state(0), SlotState::Free);
  channel.assign(0, task(2, items));
  EXPECT_TRUE(channel.withdraw(0));
  EXPECT_EQ(channel.state(0), SlotState::Free);
}

TEST(WorkerChannel, AnotherMappingSeesTheSame) {
  SharedMemoryChannel channel({2, 1, 4, 100});
  const auto items = numbers(3, 2);
  channel.assign(1, task(1, items));
  SharedMemoryChannel other{native::FileDescriptor(::dup(channel.region().descriptor()))};
  EXPECT_EQ(other.slots(), 2U);
  EXPECT_EQ(other.items(1)[1], 4);
  other.finish(*other.claim(0));
  channel.finish(*channel.claim(0));
  EXPECT_EQ(other.state(1), SlotState::Ready);
  EXPECT_THROW(SharedMemoryChannel(native::FileDescriptor(::memfd_create("empty", 0))),
               std::system_error);
}

// Workers come and go at any moment, each item is counted once in what is delivered.
void run_many_workers(bool with_repairs) {
  constexpr std::size_t kWorkers = 4;
  constexpr std::size_t kSlots = 5;
  constexpr std::size_t kItems = 16;
  constexpr std::uint64_t kTasks = 400;
  SharedMemoryChannel channel({kSlots, kWorkers, kItems, 0});
  // What workers write is what the task's slot holds: plain memory that chunks guard.
  std::vector<std::vector<std::uint64_t>> memory(kSlots, std::vector<std::uint64_t>(kItems));
  std::vector<std::thread> threads;
  for (std::size_t worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(static_cast<unsigned>(worker));
      while (const auto claim = channel.claim(worker)) {
        if (with_repairs &&
            random() % 8 == 0) {  // as if it had died here, and another had its number now
          channel.repair(worker, Poison::Fails);
          continue;
        }
        if (claim->is_collate) {  // reads what the others have written
          const auto& row = memory[claim->slot];
          const std::span<const std::uint64_t> written{row.data(), claim->items.size()};
          const auto sum = std::accumulate(written.begin(), written.end(), std::uint64_t{0});
          channel.set_result(claim->slot, sum);
          channel.finish(*claim);
          continue;
        }
        for (std::size_t i = 0; i < claim->items.size(); ++i) {
          memory[claim->slot][claim->first + i] = static_cast<std::uint64_t>(claim->items[i]);
        }
        channel.finish(*claim);
      }
    });
  }
  std::uint64_t given = 0;
  std::uint64_t next = 0;
  std::uint64_t rows = 0;
  std::vector<std::optional<std::uint64_t>> uses(kSlots);
  while (next < kTasks) {
    const auto seen = channel.done_count();
    for (std::size_t slot = 0; slot < kSlots && given < kTasks; ++slot) {
      if (uses[slot]) continue;
      const auto items = numbers(static_cast<std::int64_t>(1000 * given), 1 + given % kItems);
      auto work = task(given, items, 1 + given % 3);
      work.has_collate_task = given % 2 == 1;
      channel.assign(slot, work);
      uses[slot] = given++;
    }
    channel.wake_workers();
    bool has_delivered = false;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (uses[slot] != next || channel.state(slot) != SlotState::Ready) continue;
      for (std::size_t row = 0; row < channel.items(slot).size(); ++row, ++rows) {
        ASSERT_EQ(memory[slot][row], 1000 * next + row);
      }
      const auto count = channel.items(slot).size();
      const auto sum = 1000 * next * count + count * (count - 1) / 2;
      ASSERT_EQ(channel.result(slot), next % 2 == 1 ? sum : 0U);
      channel.release(slot);
      uses[slot].reset();
      ++next;
      has_delivered = true;
    }
    if (!has_delivered) channel.wait_done(seen, kAny, seconds(1));
  }
  channel.table().events->stop.store(1);
  channel.wake_workers();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(rows, kTasks / kItems * (kItems * (kItems + 1) / 2));
}

TEST(WorkerChannel, ManyWorkersAndRepairsLoseNothing) {
  for (const bool with_repairs : {true, false}) run_many_workers(with_repairs);
}

}  // namespace
}  // namespace lockstep::workers
