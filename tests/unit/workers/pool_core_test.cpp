// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_core.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "workers/pool_frame.h"
#include "workers/pool_jobs.h"

namespace lockstep::workers {
namespace {

constexpr std::chrono::minutes kPoolLimit{5};

class NumberTask final : public PoolTask {
 public:
  explicit NumberTask(int value) : value_(value) {}
  void run() override { value_ *= 2; }
  [[nodiscard]] int value() const { return value_; }

 private:
  int value_;
};

PoolPlan thread_plan(std::size_t workers, std::size_t slots) {
  PoolPlan plan;
  plan.shape = {slots, workers, 4};
  plan.has_threads = true;
  return plan;
}

// A process gives back as many bytes as it is asked for, in a part of their own.
PoolPlan process_plan(std::size_t workers, std::size_t slots) {
  PoolPlan plan;
  plan.shape = {slots, workers, 4};
  plan.function = [](PayloadReader& arguments, PayloadWriter& result) {
    const auto bytes = arguments.read_value<std::size_t>();
    if (bytes == 1) ::raise(SIGKILL);
    const auto text = std::make_shared<std::string>(bytes, static_cast<char>('a' + bytes % 26));
    result.write_value(bytes);
    result.add_part(text->data(), text->size(), text);
  };
  return plan;
}

std::shared_ptr<NumberTask> submit(PoolCore& core, std::size_t value) {
  PayloadWriter arguments(core.memory().get());
  arguments.write_value(value);
  auto task = std::make_shared<NumberTask>(static_cast<int>(value));
  EXPECT_EQ(core.submit(task, &arguments, kPoolLimit), PoolCore::Submitted::Yes);
  return task;
}

std::string text_of(const PoolTask& task) {
  if (!task.result) return "";
  const PoolFrame frame(task.result->data);
  std::size_t bytes = 0;
  std::memcpy(&bytes, frame.bytes().data(), sizeof(bytes));
  return {reinterpret_cast<const char*>(frame.data()), bytes};
}

std::size_t memory_of_all(const PoolMemory& memory) {
  struct stat info {};
  EXPECT_EQ(::fstat(memory.channel()->region().descriptor(), &info), 0);
  return static_cast<std::size_t>(info.st_blocks) * 512;
}

// What ThreadSanitizer shall see: callers that submit, wait and cancel at once.
TEST(PoolCore, ManyThreadsUseOnePool) {
  PoolCore core(thread_plan(3, 6));
  std::atomic<int> cancelled{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 150; ++i) {
        const auto first = submit(core, static_cast<std::size_t>(i));
        const auto second = submit(core, static_cast<std::size_t>(i));
        if (core.cancel(*second)) {
          ++cancelled;
        } else {
          EXPECT_TRUE(core.wait(*second, kPoolLimit));
          EXPECT_EQ(second->value(), 2 * i);
        }
        EXPECT_TRUE(core.wait(*first, kPoolLimit));
        EXPECT_EQ(first->value(), 2 * i);
      }
    });
  }
  for (auto& caller : callers) caller.join();
  const auto counts = core.counts();
  EXPECT_EQ(counts.submitted, 900U);
  EXPECT_EQ(counts.cancelled, static_cast<std::uint64_t>(cancelled));
  EXPECT_EQ(counts.finished, 900U - counts.cancelled);
}

class StuckTask final : public PoolTask {
 public:
  StuckTask(std::atomic<std::size_t>& begun, const std::atomic<bool>& released)
      : begun_(begun), released_(released) {}
  void run() override {
    ++begun_;
    while (!released_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  std::atomic<std::size_t>& begun_;
  const std::atomic<bool>& released_;
};

// Whoever polls must learn it, too.
bool poll_until_over(PoolCore& core, const PoolTask& task) {
  const auto deadline = Deadline::after(kPoolLimit);
  while (!core.wait(task, std::chrono::milliseconds(0))) {
    if (deadline.has_passed()) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(PoolCore, TasksBehindThreadsThatAreAllStuckAreLost) {
  for (std::size_t workers = 1; workers <= 3; ++workers) {
    std::atomic<std::size_t> begun{0};
    std::atomic<bool> released{false};
    auto plan = thread_plan(workers, 6);
    plan.timeout = std::chrono::milliseconds(20);
    PoolCore core(plan);
    std::vector<std::shared_ptr<PoolTask>> stuck;
    for (std::size_t i = 0; i < workers; ++i) {
      stuck.push_back(std::make_shared<StuckTask>(begun, released));
      EXPECT_EQ(core.submit(stuck.back(), nullptr, kPoolLimit), PoolCore::Submitted::Yes);
    }
    while (begun < workers) std::this_thread::yield();
    const auto behind = submit(core, 3);
    EXPECT_TRUE(poll_until_over(core, *behind));
    EXPECT_EQ(behind->end, TaskEnd::Lost);
    for (const auto& task : stuck) {
      EXPECT_EQ(task->end, TaskEnd::Failed);
      EXPECT_EQ(task->failure.kind, FailureKind::NoProgress);
    }
    ASSERT_TRUE(core.loss());
    EXPECT_EQ(core.loss()->kind, PoolLoss::Kind::AllStuck);
    EXPECT_EQ(core.submit(std::make_shared<NumberTask>(1), nullptr, kPoolLimit),
              PoolCore::Submitted::Lost);
    const auto counts = core.counts();
    EXPECT_EQ(counts.failed, workers + 1);
    EXPECT_EQ(counts.running + counts.waiting + counts.workers, 0U);
    released = true;
    core.close();
    EXPECT_EQ(behind->value(), 3);  // of what the program is told is lost, nothing is done
  }
}

class NoHost final : public WorkerHost {
 public:
  bool stop() noexcept override { return true; }
  [[nodiscard]] bool replaces_workers() const noexcept override { return true; }
  [[nodiscard]] int supervisor_pid() const noexcept override { return 1; }
  [[nodiscard]] std::optional<int> supervisor_status() noexcept override { return std::nullopt; }
};

TEST(PoolCore, APoolIsLostWithItsLastWorker) {
  for (std::size_t workers = 1; workers <= 3; ++workers) {
    const PoolMemory memory({2, workers, 1});
    const auto& table = memory.channel()->table();
    PoolWatch watch(table, false, std::chrono::minutes(1));
    NoHost host;
    for (std::size_t worker = 0; worker < workers; ++worker) {
      EXPECT_FALSE(watch.find_loss(host, true, 0));
      EXPECT_EQ(watch.workers_left(), workers - worker);
      table.workers[worker].wait_status = 7;
      table.workers[worker].state = worker == 0 ? WorkerState::StartFailed : WorkerState::GivenUp;
    }
    const auto loss = watch.find_loss(host, true, 0);
    ASSERT_TRUE(loss);
    EXPECT_EQ(loss->kind, PoolLoss::Kind::NotStarted);
    EXPECT_EQ(loss->wait_status, 7);
    table.workers[0].state = WorkerState::GivenUp;
    EXPECT_EQ(watch.find_loss(host, true, 0)->kind, PoolLoss::Kind::NoneLeft);
  }
}

TEST(PoolCore, BlocksAreGivenBackByAnyThread) {
  PoolCore core(process_plan(2, 4));
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&, caller] {
      std::vector<std::shared_ptr<PoolTask>> kept;
      for (std::size_t i = 0; i < 60; ++i) {
        const auto bytes = 3000 + i % 7 * 5000 + static_cast<std::size_t>(caller);
        auto task = submit(core, bytes);
        EXPECT_TRUE(core.wait(*task, kPoolLimit));
        EXPECT_EQ(task->end, TaskEnd::Result);
        kept.push_back(std::move(task));
        if (kept.size() == 5) kept.erase(kept.begin());
        for (const auto& each : kept) {
          const auto text = text_of(*each);
          EXPECT_EQ(std::count(text.begin(), text.end(), text.empty() ? ' ' : text.front()),
                    static_cast<std::ptrdiff_t>(text.size()));
        }
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(core.memory()->leased(), 0U);
  EXPECT_GT(core.memory()->copied(), 0U);
}

TEST(PoolCore, ResultsOfAllSizesComeBack) {
  PoolCore core(process_plan(2, 8));
  std::vector<std::shared_ptr<NumberTask>> tasks;
  for (const auto bytes :
       std::vector<std::size_t>{0, 2, 100, 1900, 2047, 2048, 2049, 5000, 70000, 3000000}) {
    tasks.push_back(submit(core, bytes));
  }
  for (const auto& task : tasks) {
    ASSERT_TRUE(core.wait(*task, kPoolLimit));
    const auto bytes = static_cast<std::size_t>(task->value());
    EXPECT_EQ(text_of(*task), std::string(bytes, static_cast<char>('a' + bytes % 26)));
  }
  const auto killed = submit(core, 1);
  ASSERT_TRUE(core.wait(*killed, kPoolLimit));
  EXPECT_EQ(killed->end, TaskEnd::Failed);
  EXPECT_EQ(killed->failure.kind, FailureKind::Ended);
}

TEST(PoolCore, BlocksOfADeadWorkerAreFreeAgain) {
  const PoolMemory::Shape shape{2, 1, 1};
  const auto memory = std::make_shared<PoolMemory>(shape);
  auto& blocks = memory->blocks();
  auto& channel = *memory->channel();
  const std::int64_t item = 0;
  Task task;
  task.items = {&item, 1};
  task.sequence = 5;
  channel.assign(0, task);
  task.sequence = 6;
  channel.assign(1, task);
  const auto first = channel.claim(0);
  ASSERT_TRUE(first);
  const auto kept = blocks.take(0, 5000, 5);
  channel.finish(*first);
  const auto second = channel.claim(0);
  ASSERT_TRUE(second);
  const auto lost = blocks.take(0, 5000, 6);
  EXPECT_EQ(blocks.used(0), 2U);
  channel.begin_item(0, second->slot, 0);
  const auto before = memory_of_all(*memory);
  blocks.repair(0);
  channel.repair(0, Poison::Fails, 1);
  // Its memory has gone: the worker may have died before there was all of it.
  EXPECT_EQ(before - memory_of_all(*memory), 8192U);
  // That of the task that is over stays, since the owner has not looked yet.
  EXPECT_EQ(blocks.used(0), 1U);
  EXPECT_EQ(channel.state(1), SlotState::Ready);
  EXPECT_TRUE(channel.failures().first(1));
  const auto again = blocks.take(0, 4000, 7);
  EXPECT_EQ(again->entry, lost->entry);
  EXPECT_NE(again->entry, kept->entry);
}

// A task of the channel's, as the owner gives it out.
void assign_to(TaskChannel& channel, std::size_t slot, std::uint64_t sequence) {
  const std::int64_t item = 0;
  Task task;
  task.items = {&item, 1};
  task.sequence = sequence;
  channel.assign(slot, task);
}

// Otherwise they would look as if they belonged to the task's next try.
TEST(PoolCore, BlocksOfADeadWorkerAreFreeBeforeItsTaskIsTriedAgain) {
  const auto memory = std::make_shared<PoolMemory>(PoolMemory::Shape{2, 2, 1});
  auto& channel = *memory->channel();
  auto plan = process_plan(2, 2);
  plan.attempts = 2;
  const auto program = program_of(plan, memory, nullptr, plan.timeout);
  assign_to(channel, 0, 5);
  const auto claim = channel.claim(0);
  ASSERT_TRUE(claim);
  channel.begin_item(0, claim->slot, 0);
  ASSERT_TRUE(memory->blocks().take(0, 5000, 5));
  program.repair(0);
  EXPECT_EQ(memory->blocks().used(0), 0U);
  const auto again = channel.claim(1);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->slot, claim->slot);
}

// A block that a worker of `memory` has made for a task, of which the owner knows nothing yet.
std::uint32_t block_of_worker(PoolMemory& memory, std::uint64_t task) {
  PoolBlocks side(memory.channel(), memory.shape().entries());  // the worker's mappings
  return side.take(0, 5000, task).value().entry;
}

// As where the process may have no more mappings.
void make_unmappable(PoolMemory& memory, std::uint32_t entry) {
  constexpr std::uint64_t kMoreThanThereIs = std::uint64_t{1} << 50;
  auto* words = reinterpret_cast<PoolBlockWords*>(memory.channel()->user_area());
  words[entry].bytes = kMoreThanThereIs;
}

TEST(PoolCore, ABlockThatCannotBeMappedIsGivenBack) {
  const auto memory = std::make_shared<PoolMemory>(PoolMemory::Shape{2, 1, 4});
  const auto entry = block_of_worker(*memory, 5);
  EXPECT_EQ(memory->blocks().used(0), 1U);
  make_unmappable(*memory, entry);
  EXPECT_THROW(static_cast<void>(memory->hold(entry, true)), std::system_error);
  EXPECT_EQ(memory->blocks().used(0), 0U);
  EXPECT_EQ(memory->leased(), 0U);
}

TEST(PoolCore, TheOtherBlocksOfAResultThatCannotBeMappedAreGivenBack) {
  for (std::size_t bad = 0; bad < 3; ++bad) {
    const auto memory = std::make_shared<PoolMemory>(PoolMemory::Shape{2, 1, 4});
    assign_to(*memory->channel(), 0, 5);
    PayloadWriter result(memory.get());
    std::vector<std::uint32_t> entries;
    for (int i = 0; i < 3; ++i) {
      const auto block = std::make_shared<PayloadMemory>();
      entries.push_back(block_of_worker(*memory, 5));
      block->entry = entries.back();
      result.add_block(block);
    }
    PoolFrame::write(result, memory->output(0));
    EXPECT_EQ(memory->blocks().used(0), 3U);
    make_unmappable(*memory, entries[bad]);
    NumberTask task(1);
    EXPECT_THROW(memory->take_result(task, 0), std::system_error);
    task.result_blocks.clear();
    EXPECT_EQ(memory->blocks().used(0), 0U) << bad;
    EXPECT_EQ(memory->leased(), 0U);
  }
}

TEST(PoolCore, AThreadThatIsStuckIsWaitedForOnce) {
  // The thread may be at its end when the test is over.
  static std::atomic<std::size_t> begun{0};
  static std::atomic<bool> released{false};
  auto core = std::make_optional<PoolCore>(thread_plan(1, 2));
  const auto memory = core->memory();
  const auto stuck = std::make_shared<StuckTask>(begun, released);
  EXPECT_EQ(core->submit(stuck, nullptr, kPoolLimit), PoolCore::Submitted::Yes);
  while (begun == 0) std::this_thread::yield();
  core->close();
  EXPECT_EQ(stuck->end, TaskEnd::Lost);
  // Whoever stops the threads again, and waits again, wakes them first.
  const auto& events = memory->channel()->events();
  const auto wake_ups = events.work_count();
  core.reset();
  EXPECT_EQ(events.work_count(), wake_ups);
  released = true;
}

// Many tasks at once are looked for where they are, and so few where there were few.
TEST(PoolCore, OnlyWhatWasEverUsedIsLookedAt) {
  const auto memory = std::make_shared<PoolMemory>(PoolMemory::Shape{1000, 2, 4});
  auto& blocks = memory->blocks();
  const auto few = blocks.take(1, 5000, 1);
  blocks.give_back(few->entry);
  EXPECT_EQ(blocks.take(1, 5000, 2)->entry, few->entry);
  EXPECT_NE(blocks.take(1, 5000, 3)->entry, few->entry);
  EXPECT_EQ(blocks.entries_used(1), 2U);
  EXPECT_EQ(blocks.entries_used(0) + blocks.entries_used(blocks.owner_arena()), 0U);
  EXPECT_EQ(blocks.used(1), 2U);
}

TEST(PoolCore, AnArenaHasAsManyBlocksAsItSays) {
  const PoolMemory::Shape shape{2, 1, 1};
  const auto memory = std::make_shared<PoolMemory>(shape);
  auto& blocks = memory->blocks();
  std::vector<std::uint32_t> entries;
  while (const auto block = blocks.take(0, 100, 1, 3)) entries.push_back(block->entry);
  EXPECT_EQ(entries.size(), PoolMemory::kOutputs);
  while (const auto block = blocks.take(0, 100, 1)) entries.push_back(block->entry);
  EXPECT_EQ(entries.size(), shape.entries());
  // One that is large takes the place of a small one that is free, whose memory goes.
  constexpr std::size_t kLarge = std::size_t{8} << 20;
  const auto before = memory_of_all(*memory);
  blocks.give_back(entries[4]);
  const auto large = blocks.take(0, kLarge, 1);
  ASSERT_TRUE(large);
  EXPECT_EQ(large->entry, entries[4]);
  EXPECT_EQ(memory_of_all(*memory) - before, kLarge - blocks.bytes_of(entries[5]));
  std::memset(large->data, 1, large->bytes);
}

}  // namespace
}  // namespace lockstep::workers
