// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/workers/worker_pool.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <numeric>
#include <set>
#include <string>
#include <thread>

#include "support/some_limit.h"

namespace lockstep {
namespace {

class WorkerPoolTest : public ::testing::TestWithParam<WorkerKind> {
 protected:
  static WorkerPoolOptions options() { return WorkerPoolOptions().workers(3).kind(GetParam()); }
};

std::vector<int> numbers(int count) {
  std::vector<int> items(static_cast<std::size_t>(count));
  std::iota(items.begin(), items.end(), 0);
  return items;
}

// A number that all processes of a test see.
struct SharedCount {
  SharedCount()
      : value(static_cast<std::atomic<int>*>(::mmap(nullptr, sizeof(std::atomic<int>),
                                                    PROT_READ | PROT_WRITE,
                                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedCount() { ::munmap(static_cast<void*>(value), sizeof(std::atomic<int>)); }
  SharedCount(const SharedCount&) = delete;
  SharedCount& operator=(const SharedCount&) = delete;

  std::atomic<int>* value;
};

TEST_P(WorkerPoolTest, MapKeepsTheOrder) {
  WorkerPool pool(options());
  const auto squares = pool.map(numbers(200), [](int item) {
    std::this_thread::sleep_for(std::chrono::microseconds(item % 7 * 100));
    return item * item;
  });
  ASSERT_EQ(squares.size(), 200U);
  for (int item = 0; item < 200; ++item)
    EXPECT_EQ(squares[static_cast<std::size_t>(item)], item * item);
  EXPECT_TRUE(pool.map(std::vector<int>(), [](int item) { return item; }).empty());
}

TEST_P(WorkerPoolTest, ResultsMayBeTextsVectorsLargeOrNothing) {
  WorkerPool pool(options());
  const auto texts = pool.map(numbers(20), [](int item) {
    return std::string(static_cast<std::size_t>(item * 10'000), static_cast<char>('a' + item));
  });
  for (int item = 0; item < 20; ++item) {
    EXPECT_EQ(texts[static_cast<std::size_t>(item)],
              std::string(static_cast<std::size_t>(item * 10'000), static_cast<char>('a' + item)));
  }
  const auto lists = pool.map(numbers(3), [](int item) {
    return std::vector<std::string>(static_cast<std::size_t>(item), "x");
  });
  EXPECT_EQ(lists[2], (std::vector<std::string>{"x", "x"}));
  pool.map(numbers(3), [](int) {});
}

TEST_P(WorkerPoolTest, ResultsComeInOrderOrAsTheyAreFinished) {
  WorkerPool pool(options());
  const SharedCount done;   // by workers, but for item 0
  const SharedCount taken;  // here
  const SharedCount* awaited = &done;
  const auto slow_start = [&](int item) {
    while (item == 0 && *awaited->value == 0) std::this_thread::yield();
    if (item != 0) ++*done.value;
    return item;
  };
  std::vector<std::size_t> order;
  const auto take = [&](std::size_t item, int result) {
    EXPECT_EQ(static_cast<int>(item), result);
    order.push_back(item);
    ++*taken.value;
  };
  pool.map_in_order(numbers(30), slow_start, take);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(order.size(), 30U);
  order.clear();
  *taken.value = 0;
  awaited = &taken;
  pool.map_unordered(numbers(30), slow_start, take);
  EXPECT_NE(order[0], 0U);
  EXPECT_EQ(std::set<std::size_t>(order.begin(), order.end()).size(), 30U);
}

TEST_P(WorkerPoolTest, ProgressCountsEachItem) {
  std::vector<std::size_t> seen;
  auto with_progress = options();
  with_progress.progress([&](std::size_t done, std::size_t total) {
    EXPECT_EQ(total, 9U);
    seen.push_back(done);
  });
  WorkerPool(with_progress).map(numbers(9), [](int) {});
  EXPECT_EQ(seen, (std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_P(WorkerPoolTest, FirstExceptionIsThrownAfterTheOthersAreOver) {
  WorkerPool pool(options());
  std::vector<std::size_t> done;
  try {
    pool.map_in_order(
        numbers(20),
        [](int item) {
          if (item == 15 || item == 4) throw std::out_of_range("no " + std::to_string(item));
          return item;
        },
        [&](std::size_t item, int) { done.push_back(item); });
    FAIL();
  } catch (const TaskError& error) {
    EXPECT_EQ(error.item(), 4U);
    EXPECT_EQ(error.failure(), WorkerFailure::Exception);
    EXPECT_EQ(error.pid() == ::getpid(), GetParam() == WorkerKind::Thread);
    EXPECT_EQ(error.exception_type(), "std::out_of_range");
    EXPECT_EQ(error.original_message(), "no 4");
    EXPECT_STREQ(error.what(), "item 4 failed: std::out_of_range: no 4");
  }
  EXPECT_EQ(done.size(), 18U);
  // It goes on to work, also when the taker throws.
  EXPECT_THROW(pool.map_unordered(
                   numbers(5), [](int item) { return item; },
                   [](std::size_t, int) { throw std::runtime_error("enough"); }),
               std::runtime_error);
  EXPECT_EQ(pool.map(numbers(2), [](int item) { return item; }).size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(, WorkerPoolTest,
                         ::testing::Values(WorkerKind::Process, WorkerKind::Thread),
                         [](const auto& kind) {
                           return kind.param == WorkerKind::Process ? "Processes" : "Threads";
                         });

TEST(WorkerPoolProcesses, CrashCostsOneItem) {
  WorkerPool pool(WorkerPoolOptions().workers(2));
  std::vector<int> results;
  try {
    pool.map_in_order(
        numbers(20),
        [](int item) {
          if (item == 7) ::raise(SIGKILL);
          return item;
        },
        [&](std::size_t, int result) { results.push_back(result); });
    FAIL();
  } catch (const TaskError& error) {
    EXPECT_EQ(error.item(), 7U);
    EXPECT_EQ(error.failure(), WorkerFailure::Killed);
    EXPECT_EQ(error.signal(), SIGKILL);
    EXPECT_TRUE(error.worker() == 0 || error.worker() == 1) << error.worker();
    EXPECT_NE(error.pid(), ::getpid());
    EXPECT_NE(error.original_message().find("was killed by signal 9 (Killed), as one before it"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(results.size(), 19U);
}

std::atomic<bool> grandchildren_die{false};

// Before they take an item: in the fork itself.
TEST(WorkerPoolProcesses, WorkersThatAllDieAtTheStartAreAnError) {
  static const pid_t self = ::getpid();
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] {
    if (grandchildren_die && ::getppid() != self) ::raise(SIGKILL);  // the fork server is a child
  });
  ASSERT_EQ(registered, 0);
  grandchildren_die = true;
  WorkerPool pool(WorkerPoolOptions().workers(2));
  try {
    static_cast<void>(pool.map(numbers(3), [](int item) { return item; }));
    ADD_FAILURE() << "no exception was thrown";
  } catch (const WorkerFailedError& error) {
    EXPECT_EQ(error.failure(), WorkerFailure::Killed);
    EXPECT_EQ(error.signal(), SIGKILL);
    EXPECT_EQ(error.worker(), 0);
    EXPECT_NE(std::string(error.what())
                  .find("all workers ended again and again before they took an "
                        "item; the first was killed by signal 9"),
              std::string::npos)
        << error.what();
  }
  grandchildren_die = false;
  EXPECT_EQ(pool.map(numbers(3), [](int item) { return 2 * item; }), (std::vector<int>{0, 2, 4}));
}

TEST(WorkerPoolProcesses, HangIsKilled) {
  // All other items must be done within the timeout.
  testing::expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    WorkerPool pool(WorkerPoolOptions().workers(2).timeout(timeout));
    try {
      pool.map(numbers(6), [](int item) {
        if (item == 3) std::this_thread::sleep_for(std::chrono::seconds(600));
      });
      return "no error";
    } catch (const TaskError& error) {
      EXPECT_NE(error.original_message().find("longer than the timeout"), std::string::npos);
      EXPECT_EQ(error.failure(), WorkerFailure::TimedOut);
      return error.item() == 3 ? "" : "it was item " + std::to_string(error.item());
    }
  });
}

TEST(WorkerPoolProcesses, SeesThingsAsTheyAreAtTheCall) {
  WorkerPool pool(WorkerPoolOptions().workers(2));
  int offset = 1;
  const auto add = [&](int item) { return item + offset; };
  EXPECT_EQ(pool.map(numbers(3), add), (std::vector<int>{1, 2, 3}));
  offset = 10;
  EXPECT_EQ(pool.map(numbers(3), add), (std::vector<int>{10, 11, 12}));
}

// One line of text, and one family of types.
TEST(WorkerPoolProcesses, ErrorsAreCaughtAsLibTorchs) {
  WorkerPool pool(WorkerPoolOptions().workers(1));
  const auto fail = [](int) { throw std::runtime_error("no"); };
  EXPECT_THROW(pool.map(numbers(1), fail), c10::DistError);
  try {
    pool.map(numbers(1), fail);
  } catch (const WorkerFailedError& error) {
    EXPECT_STREQ(error.what(), "item 0 failed: std::runtime_error: no");
  }
}

TEST(WorkerPoolProcesses, RefusesBadOptions) {
  const auto refusal = [](const WorkerPoolOptions& options) -> std::string {
    try {
      const WorkerPool pool(options);
      return "accepted";
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
  };
  for (const std::int64_t workers : {-1, 0, 1025}) {
    EXPECT_EQ(
        refusal(WorkerPoolOptions().workers(workers)),
        "WorkerPoolOptions: workers is " + std::to_string(workers) + "; it must be from 1 to 1024");
  }
  EXPECT_EQ(refusal(WorkerPoolOptions().timeout(std::chrono::milliseconds(0))),
            "WorkerPoolOptions: timeout is 0 ms; it must be at least 1 ms");
  EXPECT_EQ(refusal(WorkerPoolOptions().kind(WorkerKind::Spawn)),
            "WorkerPoolOptions: kind is Spawn, but a fresh run of the program does not know the "
            "function; choose Process or Thread");
  EXPECT_EQ(refusal(WorkerPoolOptions().workers(WorkerPoolOptions::kMaxWorkers)), "accepted");
}

}  // namespace
}  // namespace lockstep
