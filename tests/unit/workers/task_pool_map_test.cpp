// SPDX-License-Identifier: BSD-3-Clause
// Many items, in order and as they come.
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <ranges>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "task_pool_test_support.h"

namespace lockstep {

namespace {

using testing::Flag;
using testing::TaskPoolTest;
using testing::twice;

TEST_P(TaskPoolTest, MapGivesResultsInOrder) {
  TaskPool pool(options().queue(8));
  std::vector<int> items(100);
  std::iota(items.begin(), items.end(), 0);
  int next = 0;
  for (const int square : pool.map(items, [](int item) {
         std::this_thread::sleep_for(std::chrono::microseconds(item % 7 * 100));
         return item * item;
       })) {
    EXPECT_EQ(square, next * next);
    ++next;
  }
  EXPECT_EQ(next, 100);
  EXPECT_TRUE(pool.map(std::vector<int>(), &twice).to_vector().empty());
  EXPECT_EQ(
      pool.map(std::views::iota(0, 3), [](int item) { return std::to_string(item); }).to_vector(),
      (std::vector<std::string>{"0", "1", "2"}));
  // A range that can be read once, and functions without a result.
  std::istringstream words("some words of a text");
  auto lengths = pool.map(std::views::istream<std::string>(words),
                          [](const std::string& word) { return word.size(); });
  EXPECT_EQ(lengths.size(), std::nullopt);
  EXPECT_EQ(lengths.to_vector(), (std::vector<std::size_t>{4, 5, 2, 1, 4}));
  EXPECT_EQ(pool.map(items, [](int) {}).to_vector().size(), 100U);
}

TEST_P(TaskPoolTest, UnorderedMapGivesWhatIsFinished) {
  const Flag released;
  TaskPool pool(options().workers(2));
  // Item 0 waits until another one has been taken.
  auto results = pool.map_unordered(std::views::iota(0, 30), [flag = released.handle()](int item) {
    while (item == 0 && Flag::at(flag) == 0) std::this_thread::yield();
    return 2 * item;
  });
  std::vector<std::size_t> places;
  for (const auto& [place, value] : results) {
    EXPECT_EQ(value, 2 * static_cast<int>(place));
    places.push_back(place);
    released.value() = 1;
  }
  EXPECT_NE(places.front(), 0U);
  EXPECT_EQ(std::set<std::size_t>(places.begin(), places.end()).size(), 30U);
}

TEST_P(TaskPoolTest, MapGoesOnBehindAnItemThatFails) {
  std::vector<std::pair<std::size_t, std::size_t>> progress;
  TaskPool pool(options().progress(
      [&](std::size_t over, std::size_t all) { progress.emplace_back(over, all); }));
  auto results = pool.map(std::views::iota(0, 6), [](int item) {
    if (item == 2) throw std::runtime_error("two");
    return item;
  });
  std::vector<int> taken;
  std::vector<std::size_t> failed;
  while (true) {
    try {
      const auto value = results.next();
      if (!value) break;
      taken.push_back(*value);
    } catch (const TaskError& error) {
      failed.push_back(error.item());
    }
  }
  EXPECT_EQ(taken, (std::vector<int>{0, 1, 3, 4, 5}));
  EXPECT_EQ(failed, std::vector<std::size_t>{2});
  EXPECT_EQ(results.taken(), 6U);
  ASSERT_EQ(progress.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(progress[i], std::make_pair(i + 1, std::size_t{6}));
}

TEST_P(TaskPoolTest, AnItemThatCannotBeSubmittedIsThrownAtItsTurn) {
  const auto run = [&](auto map) {
    std::vector<std::size_t> progress;
    TaskPool pool(options().queue(3).progress(
        [&](std::size_t over, std::size_t) { progress.push_back(over); }));
    std::vector<torch::Tensor> items;
    for (int i = 0; i < 8; ++i) items.push_back(torch::full({2}, i));
    items[2] = torch::ones({2}, torch::kFloat).requires_grad_(true);
    auto results = map(pool, items, [](torch::Tensor given) {
      TORCH_CHECK(!given.requires_grad(), "requires a gradient");
      return given.sum().item<std::int64_t>();
    });
    std::string order;
    while (true) {
      try {
        const auto value = results.next();
        if (!value) break;
        if constexpr (requires { value->first; }) {
          EXPECT_EQ(value->second, 2 * static_cast<std::int64_t>(value->first));
          order += std::to_string(value->first);
        } else {
          order += std::to_string(*value / 2);
        }
      } catch (const std::exception& error) {
        EXPECT_NE(std::string(error.what()).find("requires a gradient"), std::string::npos);
        order += 'x';
      }
    }
    EXPECT_EQ(results.taken(), 8U);
    EXPECT_EQ(progress, (std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 7, 8}));
    return order;
  };
  EXPECT_EQ(run([](auto& pool, auto& items, auto function) { return pool.map(items, function); }),
            "01x34567");
  auto unordered = run(
      [](auto& pool, auto& items, auto function) { return pool.map_unordered(items, function); });
  std::sort(unordered.begin(), unordered.end());
  EXPECT_EQ(unordered, "0134567x");
}

TEST_P(TaskPoolTest, AMapThatIsLeftCancelsWhatHasNotBegun) {
  const Flag done;
  TaskPool pool(options().queue(10));
  {
    auto results = pool.map(std::views::iota(0, 1000), [flag = done.handle()](int item) {
      ++Flag::at(flag);
      return item;
    });
    EXPECT_EQ(results.next(), 0);
  }
  EXPECT_TRUE(pool.close(std::chrono::minutes(5)));
  EXPECT_LE(done.value(), 11);
}

}  // namespace
}  // namespace lockstep
