// SPDX-License-Identifier: BSD-3-Clause
// The order of steps between which nothing of the program's runs: what is written first, and what
// happens under a lock.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/fault_trap.h"
#include "task_pool_test_support.h"
#include "workers/pool_core.h"
#include "workers/pool_frame.h"
#include "workers/pool_jobs.h"

namespace lockstep {
namespace {

using testing::FaultTrap;
using testing::twice;
using workers::PoolCore;

constexpr std::chrono::seconds kOrderLimit{60};

template <class Condition>
bool comes_true(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kOrderLimit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// Ends the pool, and traps what the worker writes next to the memory that all share.
class LastTask final : public workers::PoolTask {
 public:
  LastTask(workers::TaskChannel& channel, bool throws) : channel_(channel), throws_(throws) {}
  void run() override {
    channel_.events().stop_workers();
    auto& region = channel_.region();
    trap_.emplace(
        region.control(), region.control_bytes(), PROT_READ,
        [](const void* address, void* data) { *static_cast<const void**>(data) = address; },
        &written_first_);
    if (throws_) throw std::runtime_error("failed");
  }
  [[nodiscard]] const void* written_first() const { return written_first_; }

 private:
  workers::TaskChannel& channel_;
  bool throws_;
  const void* written_first_ = nullptr;
  std::optional<FaultTrap> trap_;
};

// Once the task is said to be over, its slot may be another task's, at which the thread is not.
TEST(PoolOrder, AThreadLeavesItsTaskBeforeItSaysThatTheTaskIsOver) {
  for (const bool throws : {false, true}) {
    const workers::PoolMemory memory({1, 1, 1});
    auto& channel = *memory.channel();
    const std::int64_t item = 0;
    workers::Task words;
    words.items = {&item, 1};
    workers::PoolJobs jobs;
    const auto task = std::make_shared<LastTask>(channel, throws);
    jobs.by_slot.push_back(task);
    channel.assign(0, words);
    jobs.run_thread(channel, 0, nullptr);
    EXPECT_EQ(task->written_first(), &channel.table().workers[0].current_item);
    EXPECT_EQ(channel.state(0), workers::SlotState::Ready);
    EXPECT_EQ(channel.failures().first(0).has_value(), throws);
  }
}

class SentTask final : public workers::PoolTask {
 public:
  void run() override {}
};

// The memory of an argument, which stops the thread that reads it until another has used the pool.
class SlowArgument {
 public:
  static constexpr std::size_t kBytes = std::size_t{1} << 20;

  SlowArgument()
      : memory_(
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    std::memset(memory_, 7, kBytes);
    trap_.emplace(memory_, kBytes, PROT_NONE, &SlowArgument::wait, this);
  }
  ~SlowArgument() {
    trap_.reset();
    ::munmap(memory_, kBytes);
  }
  SlowArgument(const SlowArgument&) = delete;
  SlowArgument& operator=(const SlowArgument&) = delete;

  [[nodiscard]] const void* memory() const { return memory_; }

  std::atomic<bool> is_read{false};
  std::atomic<bool> pool_was_used{false};
  std::atomic<bool> waited_in_vain{false};

 private:
  static void wait(const void*, void* data) {
    auto& argument = *static_cast<SlowArgument*>(data);
    argument.is_read = true;
    argument.waited_in_vain = !comes_true([&argument] { return argument.pool_was_used.load(); });
  }

  void* memory_;
  std::optional<FaultTrap> trap_;
};

TEST(PoolOrder, AThreadThatCopiesALargeArgumentKeepsNoOther) {
  workers::PoolPlan plan;
  plan.shape = {2, 1, 1};
  plan.function = [](workers::PayloadReader& arguments, workers::PayloadWriter& result) {
    result.write_value(*(arguments.part(0) + SlowArgument::kBytes - 1));
  };
  PoolCore core(plan);
  SlowArgument argument;
  const auto task = std::make_shared<SentTask>();
  std::thread sender([&] {
    workers::PayloadWriter arguments(core.memory().get());
    arguments.add_part(argument.memory(), SlowArgument::kBytes, nullptr);
    EXPECT_EQ(core.submit(task, &arguments, kOrderLimit), PoolCore::Submitted::Yes);
  });
  EXPECT_TRUE(comes_true([&] { return argument.is_read.load(); }));
  EXPECT_EQ(core.counts().submitted, 0U);
  argument.pool_was_used = true;
  sender.join();
  EXPECT_FALSE(argument.waited_in_vain) << "others waited for the copy";
  EXPECT_TRUE(core.wait(*task, kOrderLimit));
  EXPECT_EQ(task->result_bytes, "\7");
}

// The address of the futex at which a thread of this process sleeps; empty where it does not.
std::string futex_of(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/syscall");
  std::string number;
  std::string address;
  file >> number >> address;
  return number == std::to_string(SYS_futex) ? address : "";
}

// Holds the lock of the loader of libraries.
class HeldLoader {
 public:
  HeldLoader() : thread_([this] { ::dl_iterate_phdr(&HeldLoader::stay, this); }) {}
  ~HeldLoader() {
    is_over_ = true;
    thread_.join();
  }
  HeldLoader(const HeldLoader&) = delete;
  HeldLoader& operator=(const HeldLoader&) = delete;

  std::atomic<bool> is_held{false};

 private:
  static int stay(dl_phdr_info*, std::size_t, void* data) {
    auto& held = *static_cast<HeldLoader*>(data);
    held.is_held = true;
    while (!held.is_over_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return 1;
  }
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

// A thread that waits for the loader's lock in a call, begun when it is told.
class WaitingThread {
 public:
  template <class Call>
  explicit WaitingThread(Call call)
      : thread_([this, call] {
          number_ = ::gettid();
          while (!may_call) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          call();
        }) {}
  ~WaitingThread() { thread_.join(); }
  WaitingThread(const WaitingThread&) = delete;
  WaitingThread& operator=(const WaitingThread&) = delete;

  [[nodiscard]] bool is_there() const { return number_ != 0; }
  [[nodiscard]] std::string futex() const { return futex_of(number_); }

  std::atomic<bool> may_call{false};

 private:
  std::atomic<pid_t> number_{0};
  std::thread thread_;
};

// Where another thread was in `submit`, under the lock of what the pool knows of loaded code, that
// lock stays locked in the fork.
TEST(PoolOrder, AForkIsRefusedBeforeItWaitsForALock) {
  if (!std::ifstream("/proc/self/syscall")) GTEST_SKIP() << "this kernel shows no system calls";
  if (::dlsym(RTLD_DEFAULT, "_dl_find_object") == nullptr) {
    GTEST_SKIP() << "exceptions need the lock of the loader here";
  }
  TaskPool pool(TaskPoolOptions().workers(1));
  std::optional<TaskFuture<int>> future;
  pid_t child = -1;
  {
    WaitingThread submits([&] { future = pool.submit(&twice, 4); });
    WaitingThread asks(
        [] { ::dl_iterate_phdr([](dl_phdr_info*, std::size_t, void*) { return 1; }, nullptr); });
    // A sanitizer may need the loader where a thread begins.
    EXPECT_TRUE(comes_true([&] { return submits.is_there() && asks.is_there(); }));
    HeldLoader loader;
    EXPECT_TRUE(comes_true([&] { return loader.is_held.load(); }));
    asks.may_call = submits.may_call = true;
    // Both at the same lock: `submit` asks the loader with its own lock held.
    const bool is_there =
        comes_true([&] { return !asks.futex().empty() && submits.futex() == asks.futex(); });
    EXPECT_TRUE(is_there);
    child = ::fork();
    if (child == 0) {
      ::alarm(60);
      try {
        static_cast<void>(pool.submit(&twice, 1));
      } catch (const c10::Error& error) {
        ::_exit(std::strstr(error.what_without_backtrace(), "a copy in a fork") != nullptr ? 0 : 2);
      }
      ::_exit(1);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(future->get(), 8);
}

}  // namespace
}  // namespace lockstep
