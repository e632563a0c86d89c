// SPDX-License-Identifier: BSD-3-Clause
// Which batch goes into which slot. The test is the only worker.
#include "data/loader/batch_scheduler.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "data/loader/shared_layout.h"
#include "data/loader/task_words.h"
#include "support/loader_test_support.h"

namespace lockstep::data::detail {
namespace {

using workers::SlotState;
using workers::TaskChannel;

class BatchSchedulerTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kSlots = 5;
  static constexpr std::size_t kBatch = 2;

  // Batches of two samples each, from `first` on.
  static PassPlan plan(std::size_t batches, std::int64_t first = 0) {
    PassPlan plan;
    plan.batches = batches;
    plan.items = [first](std::size_t batch, std::vector<std::int64_t>& items) {
      items.resize(kBatch);
      std::iota(items.begin(), items.end(), first + static_cast<std::int64_t>(batch * kBatch));
    };
    return plan;
  }
  // Does all that is given out, and says which samples those were.
  std::vector<std::int64_t> work() {
    std::vector<std::int64_t> samples;
    for (;;) {
      bool is_filling = false;
      for (std::size_t slot = 0; slot < kSlots; ++slot) {
        if (channel().state(slot) != SlotState::Filling) continue;
        is_filling = true;
        last_sequence = std::max(last_sequence, channel().sequence(slot));
      }
      if (!is_filling) return samples;
      const auto claim = channel().claim(0);
      samples.insert(samples.end(), claim->items.begin(), claim->items.end());
      channel().finish(*claim);
    }
  }
  // The program takes the next batch, and is done with it at once.
  std::size_t take(const BatchScheduler::Overview& seen) {
    const auto batch = scheduler.hand_over(*seen.next);
    channel().release(*seen.next);
    return batch;
  }
  [[nodiscard]] TaskChannel& channel() const { return *job->channel; }
  static std::vector<std::int64_t> numbers(std::int64_t first, std::size_t count) {
    std::vector<std::int64_t> result(count);
    std::iota(result.begin(), result.end(), first);
    return result;
  }

  std::shared_ptr<WorkerJob> job = [] {
    auto made = std::make_shared<WorkerJob>();
    made->channel = std::make_shared<TaskChannel>(workers::ChannelShape{kSlots, 2, kBatch, 64});
    made->source.has_rows = true;
    return made;
  }();
  BatchScheduler scheduler{job, options_with(2, kBatch)};
  std::uint64_t last_sequence = 0;
};

TEST_F(BatchSchedulerTest, EveryBatchIsGivenOutOnceAndComesInOrder) {
  scheduler.start(plan(9));
  std::vector<std::int64_t> samples;
  for (std::size_t batch = 0; batch < 9; ++batch) {
    scheduler.give_out();
    const auto done = work();
    samples.insert(samples.end(), done.begin(), done.end());
    const auto seen = scheduler.give_out();
    ASSERT_TRUE(seen.next_is_ready);
    EXPECT_EQ(take(seen), batch);
  }
  EXPECT_EQ(samples, numbers(0, 18));
  EXPECT_FALSE(scheduler.give_out().next);
  EXPECT_FALSE(scheduler.expects_more());
  EXPECT_EQ(scheduler.delivered(), 9U);
}

TEST_F(BatchSchedulerTest, NothingOfAnAbandonedPassIsDelivered) {
  scheduler.start(plan(9));
  scheduler.give_out();
  EXPECT_EQ(work(), numbers(0, 10));
  const auto before = last_sequence;
  scheduler.start(plan(9, 100));
  scheduler.give_out();
  EXPECT_EQ(work(), numbers(100, 10));
  const auto seen = scheduler.give_out();
  EXPECT_EQ(seen.ready, kSlots);
  EXPECT_GT(channel().sequence(*seen.next), before);  // no number comes again
}

TEST_F(BatchSchedulerTest, SlotsThatAreFreeAreForThePassThatWasPrepared) {
  scheduler.start(plan(2));
  scheduler.prepare([] { return plan(9, 100); });
  scheduler.give_out();
  EXPECT_EQ(work(), (std::vector<std::int64_t>{0, 1, 2, 3, 100, 101, 102, 103, 104, 105}));
  EXPECT_EQ(take(scheduler.give_out()), 0U);
  EXPECT_EQ(take(scheduler.give_out()), 1U);
  EXPECT_FALSE(scheduler.give_out().next);
  ASSERT_TRUE(scheduler.start_prepared());
  EXPECT_EQ(take(scheduler.give_out()), 0U);
  EXPECT_FALSE(scheduler.start_prepared());
}

TEST_F(BatchSchedulerTest, LostBatchIsPassedOver) {
  scheduler.start(plan(3));
  scheduler.give_out();
  work();
  EXPECT_EQ(scheduler.lose(scheduler.give_out().next), 0U);
  EXPECT_EQ(take(scheduler.give_out()), 1U);
  EXPECT_EQ(take(scheduler.give_out()), 2U);
  EXPECT_FALSE(scheduler.expects_more());
  LoaderStatistics statistics;
  scheduler.add_to(statistics);
  EXPECT_EQ(statistics.lost_batches, 1U);
}

TEST_F(BatchSchedulerTest, ErrorOfAPlanIsForItsTurn) {
  auto broken = plan(9);
  broken.items = [items = broken.items](std::size_t batch, std::vector<std::int64_t>& result) {
    if (batch == 1) throw std::runtime_error("no more");
    items(batch, result);
  };
  scheduler.start(broken);
  scheduler.give_out();
  EXPECT_EQ(work(), numbers(0, 2));
  EXPECT_EQ(take(scheduler.give_out()), 0U);
  EXPECT_FALSE(scheduler.give_out().next);
  EXPECT_THROW(scheduler.throw_error_of_plan(), std::runtime_error);
}

// Two shards. The test says how many samples each of their batches has.
class ShardSchedulerTest : public BatchSchedulerTest {
 protected:
  ShardSchedulerTest() {
    job->source.has_rows = false;
    job->source.open = [] { return std::unique_ptr<SampleStream>(); };
    job->facts.batch_size = kBatch;
    job->facts.shards = 2;
  }
  // All that is given out has so many samples of its shard.
  void work(const std::array<std::size_t, 2>& samples) {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (channel().state(slot) != SlotState::Filling) continue;
      const auto worker = shard_of_word(channel().word(slot, kShard));
      const auto claim = channel().claim(worker);
      const auto shard = shard_of_word(channel().word(claim->slot, kShard));
      channel().set_result(claim->slot, StreamResult{samples.at(shard), 0}.word());
      channel().finish(*claim);
    }
  }
  // Looks at the next batch as the program does; false when its shard was over.
  bool look(const BatchScheduler::Overview& seen) {
    scheduler.note_end_of_shard(*seen.next);
    if (StreamResult::of(channel().result(*seen.next)).samples != 0) return true;
    scheduler.skip(*seen.next);
    return false;
  }
  [[nodiscard]] std::uint64_t layout_turn() const {
    return SharedLayout::of(channel()).turn.load();
  }
};

// The first shard is empty, and the workers have more tasks of it.
TEST_F(ShardSchedulerTest, NumberOfABatchCountsThoseBeforeIt) {
  scheduler.start({});
  scheduler.give_out();
  work({0, kBatch});
  EXPECT_FALSE(look(scheduler.give_out()));
  ASSERT_TRUE(look(scheduler.give_out()));
  EXPECT_EQ(take(scheduler.give_out()), 0U);
  EXPECT_EQ(scheduler.lose(scheduler.give_out().next), 1U);
  scheduler.give_out();
  work({0, kBatch});
  EXPECT_EQ(take(scheduler.give_out()), 2U);
}

// No slot is free: the layout is for the batch to which the next slot will go.
TEST_F(ShardSchedulerTest, LayoutTurnIsOfABatchThatIsYetToCome) {
  scheduler.start({});
  scheduler.give_out();
  work({0, kBatch});
  std::vector<std::size_t> held;
  while (const auto next = scheduler.give_out().next) {
    if (!look(scheduler.give_out())) continue;
    static_cast<void>(scheduler.hand_over(*next));
    channel().hold(*next);
    held.push_back(*next);
    scheduler.give_out();
    work({0, kBatch});
  }
  ASSERT_EQ(held.size(), kSlots);
  scheduler.move_layout_turn();
  channel().release(held[0]);
  scheduler.give_out();
  EXPECT_EQ(layout_turn(), channel().sequence(held[0]));
}

}  // namespace
}  // namespace lockstep::data::detail
