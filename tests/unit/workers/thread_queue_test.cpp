// SPDX-License-Identifier: BSD-3-Clause
#include "workers/thread_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::workers {
namespace {

constexpr std::chrono::minutes kQueueLimit{5};

// What ThreadSanitizer shall see: several callers, several threads, failures and the end.
TEST(ThreadQueue, CallersAndThreadsShareNothingElse) {
  std::atomic<int> done{0};
  int failures = 0;
  {
    ThreadQueue queue(3, 8);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          const auto call = [&done, i] {
            ++done;
            if (i % 50 == 0) throw std::runtime_error("some");
          };
          EXPECT_EQ(queue.push("call", call, kQueueLimit), ThreadQueue::Pushed::Yes);
        }
      });
    }
    for (auto& caller : callers) caller.join();
    EXPECT_TRUE(queue.drain(kQueueLimit));
    if (const auto failed = queue.take_failure()) {
      failures = 1 + static_cast<int>(failed->others);
      EXPECT_EQ(failed->message, "some");
    }
    EXPECT_EQ(queue.counts().finished, 588U);
    queue.refuse_calls();
    EXPECT_EQ(queue.push(
                  "late", [] {}, kQueueLimit),
              ThreadQueue::Pushed::Closed);
  }
  EXPECT_EQ(done, 600);
  EXPECT_EQ(failures, 12);
}

TEST(ThreadQueue, ARunningCallIsNotOver) {
  std::atomic<bool> has_begun{false};
  std::atomic<bool> may_end{false};
  ThreadQueue queue(1, 1);
  const auto call = [&] {
    has_begun = true;
    while (!may_end) std::this_thread::yield();
  };
  EXPECT_EQ(queue.push("call", call, kQueueLimit), ThreadQueue::Pushed::Yes);
  while (!has_begun) std::this_thread::yield();
  EXPECT_FALSE(queue.drain(std::chrono::milliseconds(0)));
  EXPECT_EQ(queue.unfinished(), std::vector<std::string>{"call"});
  EXPECT_EQ(queue.push(
                "other", [] {}, kQueueLimit),
            ThreadQueue::Pushed::Yes);
  EXPECT_EQ(queue.push(
                "third", [] {}, std::chrono::milliseconds(0)),
            ThreadQueue::Pushed::Full);
  may_end = true;
  EXPECT_TRUE(queue.drain(kQueueLimit));
}

TEST(ThreadQueue, OneThreadKeepsTheOrder) {
  std::vector<int> order;
  ThreadQueue queue(1, 4);
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(queue.push(
                  "call", [&order, i] { order.push_back(i); }, kQueueLimit),
              ThreadQueue::Pushed::Yes);
  }
  EXPECT_TRUE(queue.drain(kQueueLimit));
  ASSERT_EQ(order.size(), 300U);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

}  // namespace
}  // namespace lockstep::workers
