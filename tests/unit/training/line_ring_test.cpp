// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/line_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::training {
namespace {

/// Only its address counts.
LineChannel* channel_number(std::uintptr_t number) {
  return reinterpret_cast<LineChannel*>(number);  // NOLINT(performance-no-int-to-ptr)
}

std::vector<std::string> drain(LineRing& ring) {
  std::vector<std::string> lines;
  ring.drain(ring.position(),
             [&](const QueuedLine& line, std::uint64_t) { lines.emplace_back(line.text); });
  return lines;
}

TEST(LineRing, GivesBackWhatItWasGiven) {
  LineRing ring(4096);
  ASSERT_TRUE(ring.push({channel_number(7), 12345, logging::Level::Error, "text"}));
  ASSERT_TRUE(ring.push({channel_number(8), -1, logging::Level::Debug, ""}));
  std::vector<QueuedLine> lines;
  std::vector<std::uint64_t> positions;
  ring.drain(ring.position(), [&](const QueuedLine& line, std::uint64_t position) {
    lines.push_back(line);
    positions.push_back(position);
  });
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].channel, channel_number(7));
  EXPECT_EQ(lines[0].nanoseconds, 12345);
  EXPECT_EQ(lines[0].level, logging::Level::Error);
  EXPECT_EQ(lines[0].text, "text");
  EXPECT_EQ(lines[1].channel, channel_number(8));
  EXPECT_EQ(lines[1].text, "");
  EXPECT_EQ(positions[0], 0U);
  EXPECT_LT(positions[1], ring.position());
}

TEST(LineRing, LinesOfAllLengthsWrapAround) {
  LineRing ring(1000);
  for (std::size_t i = 0; i < 5000; ++i) {
    const std::string text(i * 37 % 430, static_cast<char>('a' + i % 26));
    while (!ring.push({channel_number(1), 0, logging::Level::Info, text})) {
      ADD_FAILURE() << "an empty ring takes any line: " << i;
      return;
    }
    ASSERT_EQ(drain(ring), std::vector<std::string>{text});
  }
}

TEST(LineRing, TakesWhatFitsAndNoMore) {
  LineRing ring(1024);
  int taken = 0;
  while (ring.push({channel_number(1), 0, logging::Level::Info, std::to_string(taken)})) {
    ASSERT_LT(++taken, 100);
  }
  EXPECT_EQ(taken, 16);
  EXPECT_TRUE(ring.is_half_full());
  const auto lines = drain(ring);
  ASSERT_EQ(lines.size(), 16U);
  EXPECT_EQ(lines.back(), "15");
  EXPECT_FALSE(ring.is_half_full());
  EXPECT_TRUE(ring.push({channel_number(1), 0, logging::Level::Info, "again"}));
}

TEST(LineRing, ManyThreadsPushWhileOneTakes) {
  constexpr int kThreads = 4;
  constexpr int kEach = 20'000;
  LineRing ring(2048);
  std::atomic<int> running{kThreads};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const auto channel = channel_number(static_cast<std::uintptr_t>(thread) + 1);
      for (int i = 0; i < kEach; ++i) {
        const std::string text =
            std::to_string(i) + std::string(static_cast<std::size_t>(i % 90), 'x');
        while (!ring.push({channel, i, logging::Level::Info, text})) std::this_thread::yield();
      }
      --running;
    });
  }
  std::array<std::int64_t, kThreads> next{};
  bool is_right = true;
  bool is_last = false;
  while (!is_last) {
    is_last = running == 0;
    ring.drain(ring.position(), [&](const QueuedLine& line, std::uint64_t) {
      auto& expected = next[reinterpret_cast<std::uintptr_t>(line.channel) - 1];
      const std::string text =
          std::to_string(expected) + std::string(static_cast<std::size_t>(expected % 90), 'x');
      is_right = is_right && line.nanoseconds == expected && line.text == text;
      ++expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(is_right);
  for (const auto count : next) EXPECT_EQ(count, kEach);
}

}  // namespace
}  // namespace lockstep::training
