// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/workers/background_tasks.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/expected_errors.h"

namespace lockstep {
namespace {

using testing::expect_refusal;

// Holds a task until the test lets it go.
class Gate {
 public:
  void open() { is_open_ = true; }
  void pass() {
    ++arrived_;
    while (!is_open_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  void wait_for_arrival() const {
    while (arrived_ == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  std::atomic<bool> is_open_{false};
  std::atomic<int> arrived_{0};
};

TEST(BackgroundTasks, DoesTasksInTheirOrder) {
  std::vector<int> done;
  {
    BackgroundTasks tasks(BackgroundTasksOptions().threads(1).queue(4));
    for (int i = 0; i < 200; ++i) {
      EXPECT_TRUE(tasks.submit("number", [&done, i] { done.push_back(i); }));
    }
    tasks.close();
    EXPECT_EQ(done.size(), 200U);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    const auto statistics = tasks.statistics();
    EXPECT_EQ(statistics.submitted, 200U);
    EXPECT_EQ(statistics.finished, 200U);
    EXPECT_EQ(statistics.dropped, 0U);
    expect_refusal([&] { tasks.submit("late", [] {}); }, "task 'late' comes after close()");
    tasks.close();
  }
  // The destructor does what is left, too.
  std::atomic<int> count{0};
  {
    BackgroundTasks tasks(BackgroundTasksOptions().threads(3));
    for (int i = 0; i < 50; ++i) tasks.submit("count", [&count] { ++count; });
  }
  EXPECT_EQ(count, 50);
}

TEST(BackgroundTasks, AFailureIsThrownOnceByWhoComesNext) {
  Gate gate;
  std::atomic<bool> is_done{false};
  BackgroundTasks tasks;
  // Nothing fails before all are submitted: it would be thrown there.
  tasks.submit("gate", [&] { gate.pass(); });
  tasks.submit("metrics", [] { throw std::runtime_error("disk full"); });
  tasks.submit("plot", [] { throw std::logic_error("no data"); });
  tasks.submit("good", [&] { is_done = true; });
  gate.open();
  while (!is_done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  try {
    tasks.submit("next", [] {});
    ADD_FAILURE() << "no error";
  } catch (const BackgroundTaskError& error) {
    EXPECT_EQ(error.task(), "metrics");
    EXPECT_EQ(error.exception_type(), "std::runtime_error");
    EXPECT_EQ(error.original_message(), "disk full");
    EXPECT_EQ(error.others(), 1U);
    EXPECT_STREQ(error.what(),
                 "background task 'metrics' failed: std::runtime_error: disk full (and 1 more "
                 "failed)");
    EXPECT_THROW(std::rethrow_exception(error.cause()), std::runtime_error);
  }
  EXPECT_TRUE(tasks.submit("next", [] { throw 3; }));
  expect_refusal([&] { tasks.close(); },
                 "background task 'next' failed: int: an exception of unknown type");
  tasks.close();
  EXPECT_EQ(tasks.statistics().failed, 3U);
}

TEST(BackgroundTasks, ADestructorLogsWhatFailedAndWhatIsNotOver) {
  std::string logged;
  set_log_sink([&](logging::Level, std::string_view message) { logged += message; });
  {
    BackgroundTasks tasks(BackgroundTasksOptions().close_timeout(std::chrono::milliseconds(20)));
    tasks.submit("metrics", [] { throw std::runtime_error("disk full"); });
    while (tasks.statistics().failed == 0) std::this_thread::yield();
  }
  EXPECT_EQ(logged, "background task 'metrics' failed: std::runtime_error: disk full");
  logged.clear();
  Gate other;
  set_log_sink([&](logging::Level, std::string_view message) {
    logged += message;
    other.open();
  });
  {
    BackgroundTasks tasks(
        BackgroundTasksOptions().threads(2).close_timeout(std::chrono::milliseconds(20)));
    tasks.submit("upload", [&] { other.pass(); });
    tasks.submit("metrics", [] { throw std::runtime_error("disk full"); });
    while (tasks.statistics().failed == 0) std::this_thread::yield();
  }
  EXPECT_EQ(logged,
            "BackgroundTasks: 1 tasks are not over after 20 ms: 'upload'; background task "
            "'metrics' failed: std::runtime_error: disk full");
  set_log_sink({});
}

TEST(BackgroundTasks, TheLongestLimitIsLong) {
  constexpr auto kLongest = std::chrono::milliseconds::max();
  BackgroundTasks tasks(BackgroundTasksOptions().close_timeout(kLongest).submit_timeout(kLongest));
  std::atomic<int> done{0};
  for (int i = 0; i < 100; ++i) {
    tasks.submit("slow", [&] {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      ++done;
    });
  }
  tasks.close();
  EXPECT_EQ(done, 100);
}

TEST(BackgroundTasks, TheQueueIsBounded) {
  Gate gate;
  BackgroundTasks dropping(BackgroundTasksOptions().queue(2).drop_when_full(true));
  dropping.submit("slow", [&] { gate.pass(); });
  gate.wait_for_arrival();
  EXPECT_TRUE(dropping.submit("first", [] {}));
  EXPECT_TRUE(dropping.submit("second", [] {}));
  EXPECT_FALSE(dropping.submit("third", [] {}));
  EXPECT_FALSE(dropping.submit("fourth", [] {}));
  const auto statistics = dropping.statistics();
  EXPECT_EQ(statistics.dropped, 2U);
  EXPECT_EQ(statistics.waiting, 2U);
  EXPECT_EQ(statistics.running, 1U);
  gate.open();
  dropping.close();
  EXPECT_EQ(dropping.statistics().finished, 3U);

  Gate other;
  BackgroundTasks waiting(
      BackgroundTasksOptions().queue(1).submit_timeout(std::chrono::milliseconds(20)));
  waiting.submit("slow", [&] { other.pass(); });
  other.wait_for_arrival();
  waiting.submit("first", [] {});
  EXPECT_THROW(waiting.submit("second", [] {}), TaskQueueFullError);
  other.open();
  waiting.close();
  // Whoever waits gets room as soon as there is some.
  BackgroundTasks patient(BackgroundTasksOptions().queue(1));
  for (int i = 0; i < 100; ++i) patient.submit("quick", [] {});
  patient.close();
}

TEST(BackgroundTasks, CloseGivesUpAtItsTimeAndNamesWhatIsLeft) {
  Gate gate;
  BackgroundTasks tasks(BackgroundTasksOptions().close_timeout(std::chrono::milliseconds(20)));
  tasks.submit("upload", [&] { gate.pass(); });
  gate.wait_for_arrival();
  tasks.submit("metrics", [] {});
  expect_refusal([&] { tasks.close(); }, "2 tasks are not over after 20 ms: 'upload', 'metrics'");
  gate.open();
  while (tasks.statistics().running + tasks.statistics().waiting > 0) std::this_thread::yield();
}

TEST(BackgroundTasks, WhatATaskHasGoesWithIt) {
  auto thing = std::make_shared<int>(3);
  BackgroundTasks tasks;
  tasks.submit("use", [thing] {});
  tasks.close();
  EXPECT_EQ(thing.use_count(), 1);
}

TEST(BackgroundTasks, AForkOfTheProgramIsLeftAlone) {
  Gate gate;
  auto tasks = std::make_unique<BackgroundTasks>();
  std::atomic<int> done{0};
  tasks->submit("slow", [&] { gate.pass(); });
  gate.wait_for_arrival();
  tasks->submit("after", [&] { ++done; });
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    int wrong = done == 0 ? 0 : 1;
    try {
      tasks->submit("child", [] {});
      wrong += 2;
    } catch (const c10::Error&) {
    }
    tasks->close();
    tasks.reset();
    BackgroundTasks others;
    others.submit("own", [&] { ++done; });
    others.close();
    ::_exit(wrong + (done == 1 ? 0 : 4));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  gate.open();
  tasks->close();
  EXPECT_EQ(done, 1);
}

TEST(BackgroundTasks, RefusesBadOptionsAndEmptyFunctions) {
  const auto refusal = [](const BackgroundTasksOptions& options, const std::string& part) {
    expect_refusal([&] { const BackgroundTasks tasks(options); }, part);
  };
  refusal(BackgroundTasksOptions().threads(0), "threads is 0; it must be from 1 to 64");
  refusal(BackgroundTasksOptions().queue(0), "queue is 0; it must be from 1 to 1048576");
  refusal(BackgroundTasksOptions().close_timeout(std::chrono::milliseconds(-1)),
          "neither may be negative");
  BackgroundTasks tasks;
  expect_refusal([&] { tasks.submit("nothing", nullptr); },
                 "the function of task 'nothing' is empty");
}

}  // namespace
}  // namespace lockstep
