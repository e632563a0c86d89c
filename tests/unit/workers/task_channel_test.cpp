// SPDX-License-Identifier: BSD-3-Clause
// The words between a rank and its workers, with threads as workers, so that ThreadSanitizer sees
// them.
#include "workers/task_channel.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

#include "unit/workers/channel_test_support.h"

namespace lockstep::workers {
namespace {

using std::chrono::seconds;

TEST(TaskChannel, WithdrawnSlotIsFreeWhenNobodyIsAtIt) {
  TaskChannel channel({1, 1, 4, 0});
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

TEST(TaskChannel, CollateTaskIsWithdrawnWithTheOthers) {
  TaskChannel channel({1, 2, 4, 0});
  const auto items = numbers(0, 2);
  channel.assign(0, collate_task(1, items));
  const auto claim = channel.claim(0);
  EXPECT_FALSE(channel.withdraw(0));
  channel.finish(*claim);
  EXPECT_TRUE(channel.withdraw(0));
  EXPECT_EQ(channel.state(0), SlotState::Free);
}

TEST(TaskChannel, AnotherMappingSeesTheSame) {
  TaskChannel channel({2, 1, 4, 100});
  const auto items = numbers(3, 2);
  channel.assign(1, task(1, items));
  TaskChannel other{native::FileDescriptor(::dup(channel.region().descriptor()))};
  EXPECT_EQ(other.slots(), 2U);
  EXPECT_EQ(other.items().of(1)[1], 4);
  other.finish(*other.claim(0));
  channel.finish(*channel.claim(0));
  EXPECT_EQ(other.state(1), SlotState::Ready);
  EXPECT_THROW(TaskChannel(native::FileDescriptor(::memfd_create("empty", 0))), std::system_error);
}

// Workers come and go at any moment, each item is counted once in what is delivered.
void run_many_workers(bool with_repairs) {
  constexpr std::size_t kWorkers = 4;
  constexpr std::size_t kSlots = 5;
  constexpr std::size_t kItems = 16;
  constexpr std::uint64_t kTasks = 400;
  TaskChannel channel({kSlots, kWorkers, kItems, 0});
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
    const auto seen = channel.events().done_count();
    for (std::size_t slot = 0; slot < kSlots && given < kTasks; ++slot) {
      if (uses[slot]) continue;
      const auto items = numbers(static_cast<std::int64_t>(1000 * given), 1 + given % kItems);
      auto work = task(given, items, 1 + given % 3);
      work.has_collate_task = given % 2 == 1;
      channel.assign(slot, work);
      uses[slot] = given++;
    }
    channel.events().wake_workers();
    bool has_delivered = false;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (uses[slot] != next || channel.state(slot) != SlotState::Ready) continue;
      for (std::size_t row = 0; row < channel.items().of(slot).size(); ++row, ++rows) {
        ASSERT_EQ(memory[slot][row], 1000 * next + row);
      }
      const auto count = channel.items().of(slot).size();
      const auto sum = 1000 * next * count + count * (count - 1) / 2;
      ASSERT_EQ(channel.result(slot), next % 2 == 1 ? sum : 0U);
      channel.release(slot);
      uses[slot].reset();
      ++next;
      has_delivered = true;
    }
    if (!has_delivered) channel.events().wait_for_done(seen, PoolEvents::kAnyTask, seconds(1));
  }
  channel.events().stop_workers();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(rows, kTasks / kItems * (kItems * (kItems + 1) / 2));
}

TEST(TaskChannel, ManyWorkersAndRepairsLoseNothing) {
  for (const bool with_repairs : {true, false}) run_many_workers(with_repairs);
}

// Where the chunks themselves do not show that there is progress, items do.
TEST(TaskChannel, ProgressCountsChunksAndItemsWithin) {
  TaskChannel channel({1, 1, 4});
  const auto items = numbers(0, 4);
  channel.assign(0, task(1, items, 2));
  EXPECT_EQ(channel.progress(0), 0U);
  const auto claim = channel.claim(0);
  channel.begin_item(0, 0, 0);
  channel.end_item(0);
  channel.end_item(0);  // at nothing
  EXPECT_EQ(channel.progress(0), 1U);
  channel.finish(*claim);
  EXPECT_EQ(channel.progress(0), 2U);
}

TEST(TaskChannel, AWorkerThatShallRetireClaimsNothing) {
  TaskChannel channel({1, 1, 1});
  const auto items = numbers(0, 1);
  channel.assign(0, task(1, items));
  channel.table().workers[0].retire = 1;
  EXPECT_FALSE(channel.claim(0));
}

}  // namespace
}  // namespace lockstep::workers
