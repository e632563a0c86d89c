// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/timed_waits.h"
#include "task_pool_test_support.h"

namespace lockstep {

namespace {

using testing::expect_refusal;
using testing::Flag;
using testing::happens;
using testing::TaskPoolTest;
using testing::twice;
using testing::wait_until_set;

TEST_P(TaskPoolTest, DoesWhatTheExampleSays) {
  TaskPool pool(options());
  const auto x = torch::arange(12, torch::kFloat).reshape({3, 4});
  auto future = pool.submit([](torch::Tensor tensor) { return tensor.sum(); }, x);
  EXPECT_TRUE(future.valid());
  EXPECT_TRUE(torch::equal(future.get(), x.sum()));
  EXPECT_FALSE(future.valid());
  expect_refusal([&] { static_cast<void>(future.get()); }, "it has no result to give");
}

TEST_P(TaskPoolTest, RefusesNoFunction) {
  TaskPool pool(options());
  int (*none)(int) = nullptr;
  std::size_t (std::string::*method)() const noexcept = nullptr;
  expect_refusal([&] { static_cast<void>(pool.submit(none, 1)); }, "a null pointer, or empty");
  expect_refusal([&] { static_cast<void>(pool.submit(method, "a")); }, "a null pointer, or empty");
  expect_refusal([&] { static_cast<void>(pool.map(std::vector{1}, none).next()); },
                 "a null pointer");
  if (has_processes()) return;
  expect_refusal([&] { pool.submit_to_thread(std::function<void()>()); },
                 "a null pointer, or empty");
}

TEST_P(TaskPoolTest, TheLongestLimitsAreLong) {
  constexpr auto kLongest = std::chrono::milliseconds::max();
  TaskPool pool(options().timeout(kLongest).submit_timeout(kLongest).queue(1));
  const auto work = [](int time) {
    std::this_thread::sleep_for(std::chrono::milliseconds(time));
    return time;
  };
  // For as long as somebody looks twice at the worker.
  auto first = pool.submit(work, has_processes() && GetParam().workers == 1 ? 1200 : 200);
  auto second = pool.submit(work, 50);
  EXPECT_TRUE(second.wait_for(kLongest));
  auto third = pool.submit(work, 50);
  EXPECT_TRUE(pool.close(kLongest));
  EXPECT_GE(first.get(), 200);
  EXPECT_EQ(second.get() + third.get(), 100);
}

TEST_P(TaskPoolTest, FunctionsMayBePointersAndCaptureValues) {
  TaskPool pool(options());
  EXPECT_EQ(pool.submit(&twice, 4).get(), 8);
  const double factor = 1.5;
  const int offset = 2;
  EXPECT_EQ(pool.submit([factor, offset](int value) { return factor * value + offset; }, 4).get(),
            8.0);
}

TEST_P(TaskPoolTest, ExceptionsComeWithTypeAndText) {
  TaskPool pool(options());
  auto good = pool.submit(&twice, 1);
  auto bad = pool.submit(
      [](int value) -> int { throw std::out_of_range("no " + std::to_string(value)); }, 3);
  try {
    static_cast<void>(bad.get());
    ADD_FAILURE() << "no error";
  } catch (const TaskError& error) {
    EXPECT_EQ(error.item(), 1U);
    EXPECT_EQ(error.failure(), WorkerFailure::Exception);
    EXPECT_EQ(error.exception_type(), "std::out_of_range");
    EXPECT_EQ(error.original_message(), "no 3");
    EXPECT_EQ(error.pid() == ::getpid(), !has_processes());
    EXPECT_STREQ(error.what(), "item 1 failed: std::out_of_range: no 3");
  }
  EXPECT_EQ(good.get(), 2);
  // One line of LibTorch's errors, without their stacks.
  try {
    pool.submit([] { TORCH_CHECK(false, "bad shape"); }).get();
    ADD_FAILURE() << "no error";
  } catch (const TaskError& error) {
    EXPECT_STREQ(error.what(), "item 2 failed: c10::Error: bad shape");
  }
  EXPECT_EQ(pool.submit(&twice, 5).get(), 10);
  const auto statistics = pool.statistics();
  EXPECT_EQ(statistics.submitted, 4U);
  EXPECT_EQ(statistics.finished, 2U);
  EXPECT_EQ(statistics.failed, 2U);
  EXPECT_EQ(statistics.replaced_workers, 0U);
}

TEST_P(TaskPoolTest, WaitingTasksCanBeCancelled) {
  const Flag begun;
  const Flag released;
  TaskPool pool(options());
  std::vector<TaskFuture<int>> running;
  for (std::int64_t i = 0; i < GetParam().workers; ++i) {
    running.push_back(pool.submit(&wait_until_set, begun.handle(), released.handle()));
  }
  begun.wait_for(static_cast<int>(GetParam().workers));
  auto first = pool.submit(&twice, 1);
  auto second = pool.submit(&twice, 2);
  auto third = pool.submit(&twice, 3);
  EXPECT_FALSE(running[0].cancel());
  EXPECT_FALSE(first.wait_for(std::chrono::milliseconds(0)));
  EXPECT_TRUE(first.cancel());
  EXPECT_FALSE(first.cancel());
  EXPECT_TRUE(first.is_ready());
  auto statistics = pool.statistics();
  EXPECT_EQ(statistics.running, static_cast<std::uint64_t>(GetParam().workers));
  EXPECT_EQ(statistics.waiting, 2U);
  EXPECT_EQ(pool.cancel_all(), 2U);
  released.value() = 1;
  for (auto& future : running) EXPECT_EQ(future.get(), 1);
  EXPECT_THROW(static_cast<void>(first.get()), TaskCancelledError);
  expect_refusal(
      [&] { static_cast<void>(third.get()); },
      "task " + std::to_string(GetParam().workers + 2) + " was cancelled before it began");
  EXPECT_EQ(pool.statistics().cancelled, 3U);
  EXPECT_EQ(pool.submit(&twice, 4).get(), 8);
}

TEST_P(TaskPoolTest, TheQueueIsBounded) {
  const Flag begun;
  const Flag released;
  TaskPool pool(options().queue(5).when_full(WhenFull::Throw));
  std::vector<TaskFuture<int>> futures;
  for (int i = 0; i < 5; ++i) {
    futures.push_back(pool.submit(&wait_until_set, begun.handle(), released.handle()));
  }
  EXPECT_THROW(static_cast<void>(pool.submit(&twice, 1)), TaskQueueFullError);
  expect_refusal([&] { static_cast<void>(pool.submit(&twice, 1)); }, "with 5 tasks");
  released.value() = 1;
  for (auto& future : futures) EXPECT_EQ(future.get(), 1);
  EXPECT_EQ(pool.submit(&twice, 1).get(), 2);
  // The other choice waits.
  released.value() = 0;
  TaskPool patient(options().queue(2).submit_timeout(std::chrono::milliseconds(20)));
  auto one = patient.submit(&wait_until_set, begun.handle(), released.handle());
  auto two = patient.submit(&wait_until_set, begun.handle(), released.handle());
  expect_refusal([&] { static_cast<void>(patient.submit(&twice, 1)); }, "has been full for 20 ms");
  released.value() = 1;
  EXPECT_EQ(one.get() + two.get(), 2);
}

TEST_P(TaskPoolTest, ThreadsMaySubmitAndWaitAtOnce) {
  TaskPool pool(options().queue(6));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 100; ++i) {
        auto first = pool.submit(&twice, 1000 * thread + i);
        auto second = pool.submit(
            [](int value) {
              return torch::full({40, 40}, value, torch::kInt);
            },
            i);
        if (second.get().sum().item<std::int64_t>() != 1600 * i) ++wrong;
        if (first.get() != 2 * (1000 * thread + i)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(pool.statistics().finished, 800U);
}

TEST_P(TaskPoolTest, CloseWaitsOrSaysThatItDidNot) {
  const Flag begun;
  const Flag released;
  std::vector<TaskFuture<int>> futures;
  {
    TaskPool pool(options());
    for (int i = 0; i < 50; ++i) futures.push_back(pool.submit(&twice, i));
    EXPECT_TRUE(pool.close(std::chrono::minutes(5)));
    expect_refusal([&] { static_cast<void>(pool.submit(&twice, 1)); }, "it is closed");
    EXPECT_TRUE(pool.close(std::chrono::minutes(5)));
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
  if (!has_processes()) return;  // a thread cannot be ended
  TaskPool pool(options().workers(1));
  auto running = pool.submit(&wait_until_set, begun.handle(), released.handle());
  auto waiting = pool.submit(&twice, 1);
  begun.wait_for(1);
  EXPECT_FALSE(pool.close(std::chrono::milliseconds(10)));
  EXPECT_THROW(static_cast<void>(waiting.get()), TaskCancelledError);
  expect_refusal([&] { static_cast<void>(running.get()); },
                 "was not over when its pool was closed");
}

bool do_all_other_threads_sleep() {
  const auto own = std::to_string(::gettid());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == own) continue;
    std::ifstream stat(task.path() / "stat");
    std::string text;
    if (std::getline(stat, text) && text.at(text.rfind(')') + 2) != 'S') return false;
  }
  return true;
}

TEST_P(TaskPoolTest, AForkOfTheProgramUsesNothingOfIt) {
  TaskPool pool(options());
  auto future = pool.submit(&twice, 4);
  auto tensor = pool.submit([] { return torch::ones({100, 100}); }).get();
  if (!has_processes()) {
    // A fork inherits AddressSanitizer's locks as they are, and a thread that frees its task, which
    // may be a moment after the result is there, holds one of them.
    ASSERT_TRUE(future.wait_for(std::chrono::minutes(1)));
    ASSERT_TRUE(happens(&do_all_other_threads_sleep));
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    int refused = 0;
    const auto expect = [&](const auto& call) {
      try {
        call();
      } catch (const c10::Error& error) {
        if (std::string(error.what()).find("a copy in a fork") != std::string::npos) ++refused;
      }
    };
    expect([&] { static_cast<void>(pool.submit(&twice, 1)); });
    expect([&] { static_cast<void>(future.get()); });
    expect([&] { static_cast<void>(pool.empty({3})); });
    tensor = torch::Tensor();
    pool.close(std::chrono::seconds(1));
    ::_exit(refused == 3 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(future.get(), 8);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(pool.submit([] { return torch::zeros({100, 100}); }).get().sum().item<float>(), 0);
  }
  EXPECT_EQ(tensor.sum().item<float>(), 10'000);
}

INSTANTIATE_TEST_SUITE_P(
    , TaskPoolTest,
    ::testing::Values(testing::Case{WorkerKind::Process, 1}, testing::Case{WorkerKind::Process, 2},
                      testing::Case{WorkerKind::Process, 3}, testing::Case{WorkerKind::Thread, 1},
                      testing::Case{WorkerKind::Thread, 2}, testing::Case{WorkerKind::Thread, 3}),
    [](const auto& given) {
      return (given.param.kind == WorkerKind::Process ? "Processes" : "Threads") +
             std::to_string(given.param.workers);
    });

TEST(TaskPoolProcess, WorkersDrawDifferentRandomNumbers) {
  const Flag begun;
  TaskPool pool(TaskPoolOptions().workers(2));
  const auto draw = [](std::uintptr_t flag) {
    ++Flag::at(flag);
    while (Flag::at(flag) < 2) std::this_thread::yield();
    return torch::rand({4});
  };
  auto first = pool.submit(draw, begun.handle());
  auto second = pool.submit(draw, begun.handle());
  EXPECT_FALSE(torch::equal(first.get(), second.get()));
}

TEST(TaskPoolProcess, RefusesBadOptions) {
  const auto refusal = [](const TaskPoolOptions& options, const std::string& part) {
    expect_refusal([&] { const TaskPool pool(options); }, part);
  };
  refusal(TaskPoolOptions().workers(0), "workers is 0; it must be from 1 to 1024");
  refusal(TaskPoolOptions().queue(0), "queue is 0; it must be from 1 to 65536");
  refusal(TaskPoolOptions().leases(-1), "leases is -1");
  refusal(TaskPoolOptions().attempts(101), "attempts is 101; it must be from 1 to 100");
  refusal(TaskPoolOptions().operator_threads(0), "operator_threads is 0");
  refusal(TaskPoolOptions().timeout(std::chrono::milliseconds(0)), "timeout is 0 ms");
  refusal(TaskPoolOptions().submit_timeout(std::chrono::milliseconds(-1)),
          "submit_timeout is -1 ms");
  refusal(TaskPoolOptions().kind(WorkerKind::Spawn), "kind is Spawn");
}

TEST(TaskPoolThread, TakesEverything) {
  TaskPool pool(TaskPoolOptions().workers(2).kind(WorkerKind::Thread));
  std::vector<std::string> log;
  auto pointer = std::make_unique<int>(5);
  auto future = pool.submit_to_thread(
      [&log, text = std::string("captured")](std::unique_ptr<int> given) {
        log.push_back(text);
        return std::make_unique<int>(*given + 1);
      },
      std::move(pointer));
  EXPECT_EQ(*future.get(), 6);
  EXPECT_EQ(log, std::vector<std::string>{"captured"});
  // The graph of autograd stays whole.
  auto x = torch::ones({3}).requires_grad_(true);
  pool.submit([](torch::Tensor given) { return given.sum(); }, x).get().backward();
  EXPECT_TRUE(torch::equal(x.grad(), torch::ones({3})));
  TaskPool processes(TaskPoolOptions().workers(1));
  expect_refusal([&] { processes.submit_to_thread([] {}); }, "needs a pool of threads");
}

TEST(TaskPoolThread, WhatACancelledTaskHasGoesWithIt) {
  const Flag begun;
  const Flag released;
  TaskPool pool(TaskPoolOptions().workers(1).kind(WorkerKind::Thread));
  auto running = pool.submit(&wait_until_set, begun.handle(), released.handle());
  begun.wait_for(1);
  auto thing = std::make_shared<int>(3);
  auto waiting = pool.submit_to_thread([thing] {});
  EXPECT_GT(thing.use_count(), 1);
  EXPECT_TRUE(waiting.cancel());
  EXPECT_EQ(thing.use_count(), 1);
  auto other = pool.submit_to_thread([thing] {});
  EXPECT_EQ(pool.cancel_all(), 1U);
  EXPECT_EQ(thing.use_count(), 1);
  released.value() = 1;
  EXPECT_EQ(running.get(), 1);
}

}  // namespace
}  // namespace lockstep
