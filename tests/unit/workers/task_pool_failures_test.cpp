// SPDX-License-Identifier: BSD-3-Clause
// Workers that die, hang, or cannot start.
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/expected_errors.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"
#include "task_pool_test_support.h"

namespace lockstep {

namespace {

using testing::expect_refusal;
using testing::Flag;
using testing::happens;
using testing::TaskPoolProcesses;
using testing::twice;
using testing::wait_until_set;

TEST_P(TaskPoolProcesses, AWorkerThatDiesCostsItsTask) {
  TaskPool pool(options());
  std::vector<TaskFuture<int>> others;
  for (int i = 0; i < 10; ++i) others.push_back(pool.submit(&twice, i));
  auto killed = pool.submit([] { ::raise(SIGKILL); });
  auto crashed = pool.submit([] {
    ::signal(SIGSEGV, SIG_DFL);
    ::raise(SIGSEGV);
  });
  auto left = pool.submit([] { ::_exit(7); });
  for (int i = 0; i < 10; ++i) others.push_back(pool.submit(&twice, 10 + i));
  const auto error_of = [](auto& future) -> std::optional<TaskError> {
    try {
      future.get();
    } catch (const TaskError& error) {
      return error;
    }
    return std::nullopt;
  };
  const auto kill = error_of(killed);
  ASSERT_TRUE(kill);
  EXPECT_EQ(kill->item(), 10U);
  EXPECT_EQ(kill->failure(), WorkerFailure::Killed);
  EXPECT_EQ(kill->signal(), SIGKILL);
  EXPECT_TRUE(kill->worker() >= 0 && kill->worker() < GetParam());
  EXPECT_NE(kill->pid(), ::getpid());
  const std::string who = "item 10 failed: worker " + std::to_string(kill->worker()) + " (pid " +
                          std::to_string(kill->pid()) + ") was killed by signal 9 (Killed)";
  EXPECT_EQ(std::string(kill->what()), who);
  const auto crash = error_of(crashed);
  ASSERT_TRUE(crash);
  EXPECT_EQ(crash->signal(), SIGSEGV);
  const auto leave = error_of(left);
  ASSERT_TRUE(leave);
  EXPECT_EQ(leave->failure(), WorkerFailure::Exited);
  EXPECT_EQ(leave->exit_status(), 7);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(others[static_cast<std::size_t>(i)].get(), 2 * i);
  EXPECT_EQ(pool.statistics().replaced_workers, 3U);
  EXPECT_EQ(pool.statistics().failed, 3U);
}

TEST_P(TaskPoolProcesses, ATaskMayBeTriedAgain) {
  const Flag tries;
  TaskPool pool(options().attempts(3));
  const auto die_until = [](std::uintptr_t flag, int last) {
    const int attempt = ++Flag::at(flag);
    if (attempt < last) ::raise(SIGKILL);
    return attempt;
  };
  EXPECT_EQ(pool.submit(die_until, tries.handle(), 3).get(), 3);
  tries.value() = 0;
  expect_refusal([&] { static_cast<void>(pool.submit(die_until, tries.handle(), 10).get()); },
                 "was killed by signal 9 (Killed), as 2 before it");
  EXPECT_EQ(tries.value(), 3);
}

TEST_P(TaskPoolProcesses, ATaskThatIsTriedAgainFindsItsArgumentsAsTheyWere) {
  const Flag tries;
  TaskPool pool(options().attempts(3));
  for (const std::int64_t size : {4, 100'000}) {
    tries.value() = 0;
    const auto sum = pool.submit(
                             [](torch::Tensor x, std::uintptr_t flag) {
                               x.mul_(2);
                               if (++Flag::at(flag) < 3) ::raise(SIGKILL);
                               return x.sum();
                             },
                             torch::ones({size}), tries.handle())
                         .get();
    EXPECT_EQ(sum.item<float>(), static_cast<float>(2 * size));
  }
}

TEST_P(TaskPoolProcesses, RandomKillsLoseNoOtherTask) {
  TaskPool pool(options().queue(16).attempts(100));
  std::vector<TaskFuture<torch::Tensor>> futures;
  std::optional<pid_t> victim;
  for (int i = 0; i < 300; ++i) {
    futures.push_back(pool.submit(
        [](int value) {
          return torch::full({50, 50}, value, torch::kInt);
        },
        i));
    // It has tasks to be at meanwhile.
    if (i % 30 == 20) victim = pool.submit([] { return ::getpid(); }).get();
    if (i % 30 == 29) ::kill(*victim, SIGKILL);
  }
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(torch::equal(futures[static_cast<std::size_t>(i)].get(),
                             torch::full({50, 50}, i, torch::kInt)));
  }
  EXPECT_EQ(pool.statistics().failed, 0U);
}

INSTANTIATE_TEST_SUITE_P(, TaskPoolProcesses, ::testing::Values(1, 2, 3));

TEST(TaskPoolProcess, HangIsKilled) {
  testing::expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    TaskPool pool(TaskPoolOptions().workers(2).timeout(timeout));
    auto hanging = pool.submit([] { std::this_thread::sleep_for(std::chrono::seconds(600)); });
    auto other = pool.submit(&twice, 3);
    try {
      hanging.get();
      return "no error";
    } catch (const TaskError& error) {
      EXPECT_EQ(error.failure(), WorkerFailure::TimedOut);
      EXPECT_NE(std::string(error.what()).find("took longer than the timeout and was killed"),
                std::string::npos);
    }
    try {
      return other.get() == 6 ? "" : "wrong";
    } catch (const TaskError& error) {
      return error.what();
    }
  });
}

TEST(TaskPoolProcess, TheParentOfTheWorkersIsMissed) {
  TaskPool pool(TaskPoolOptions().workers(2));
  const auto parent = pool.submit([] { return ::getppid(); }).get();
  auto waiting = pool.submit([] { std::this_thread::sleep_for(std::chrono::seconds(600)); });
  ::kill(parent, SIGKILL);
  try {
    waiting.get();
    ADD_FAILURE() << "no error";
  } catch (const WorkerFailedError& error) {
    EXPECT_EQ(error.signal(), SIGKILL);
    EXPECT_STREQ(error.what(),
                 "TaskPool: the workers' parent process was killed by signal 9 (Killed)");
  }
  EXPECT_THROW(static_cast<void>(pool.submit(&twice, 1)), WorkerFailedError);
  EXPECT_FALSE(pool.close(std::chrono::seconds(1)));
}

TEST(TaskPoolProcess, WhoeverPollsMissesTheParentToo) {
  const auto hang = [] { std::this_thread::sleep_for(std::chrono::seconds(600)); };
  const auto kill_parent = [&](TaskPool& pool) {
    const auto parent = pool.submit([] { return ::getppid(); }).get();
    auto future = pool.submit(hang);
    ::kill(parent, SIGKILL);
    return future;
  };
  TaskPool pool(TaskPoolOptions().workers(1));
  auto future = kill_parent(pool);
  while (!future.is_ready()) std::this_thread::yield();
  EXPECT_THROW(future.get(), WorkerFailedError);
  TaskPool counting(TaskPoolOptions().workers(1));
  future = kill_parent(counting);
  EXPECT_EQ(counting.statistics().submitted, 2U);
  while (counting.statistics().failed == 0) std::this_thread::yield();
  EXPECT_EQ(counting.statistics().workers, 0U);
  EXPECT_EQ(counting.statistics().running, 0U);
  // A full queue does not hide it.
  TaskPool full(TaskPoolOptions().workers(1).queue(1).when_full(WhenFull::Throw));
  future = kill_parent(full);
  while (true) {
    try {
      full.submit(&twice, 1).get();
      ADD_FAILURE() << "no error";
    } catch (const TaskQueueFullError&) {
      continue;
    } catch (const WorkerFailedError&) {
      break;
    }
  }
}

TEST(TaskPoolProcess, WorkersThatCannotStartAreAnError) {
  TaskPool pool(TaskPoolOptions().workers(2).worker_init(
      [](std::size_t) { throw std::runtime_error("no licence"); }));
  // `submit` itself says so if the workers have had the time to end.
  expect_refusal([&] { static_cast<void>(pool.submit(&twice, 1).get()); },
                 "all workers ended again and again before they took an item; the first exited "
                 "with status 1: no licence");
}

// Also where nobody has reaped it: a worker that outlives its parent waits for process 1 to do so.
bool has_worker_ended(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return true;
  return text.at(text.rfind(')') + 2) == 'Z';
}

TEST(TaskPoolProcess, NothingOfThePoolIsLeft) {
  pid_t worker = 0;
  pid_t parent = 0;
  {
    TaskPool pool(TaskPoolOptions().workers(2));
    worker = pool.submit([] { return ::getpid(); }).get();
    parent = pool.submit([] { return ::getppid(); }).get();
    EXPECT_EQ(::kill(worker, 0), 0);
  }
  EXPECT_NE(::kill(parent, 0), 0);
  // The pool does not wait for a killed worker that takes long to give back its memory.
  EXPECT_TRUE(happens([worker] { return has_worker_ended(worker); }));
}

TEST(TaskPoolThread, AStuckThreadIsNamed) {
  testing::expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    const Flag begun;
    const Flag released;
    std::string found;
    {
      TaskPool pool(TaskPoolOptions().workers(2).kind(WorkerKind::Thread).timeout(timeout));
      auto stuck = pool.submit(&wait_until_set, begun.handle(), released.handle());
      try {
        stuck.get();
        found = "no error";
      } catch (const TaskError& error) {
        EXPECT_EQ(error.failure(), WorkerFailure::TimedOut);
        EXPECT_NE(std::string(error.what()).find("takes longer than the timeout"),
                  std::string::npos);
      }
      try {
        if (pool.submit(&twice, 3).get() != 6) found = "wrong";
      } catch (const TaskError& error) {
        found = error.what();
      }
      released.value() = 1;
      pool.close(std::chrono::minutes(1));
    }
    return found;
  });
}

}  // namespace
}  // namespace lockstep
