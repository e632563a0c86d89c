// SPDX-License-Identifier: BSD-3-Clause
// TaskPool::map with several items a task.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <numeric>
#include <ranges>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/expected_errors.h"

namespace lockstep {

// Has a codec and no copy.
struct Ticket {
  explicit Ticket(int given) : number(std::make_unique<int>(given)) {}
  std::unique_ptr<int> number;
};

template <>
struct workers::ResultCodec<Ticket> {
  static std::string to_bytes(const Ticket& ticket) { return std::to_string(*ticket.number); }
  static Ticket from_bytes(std::string_view bytes) { return Ticket(std::stoi(std::string(bytes))); }
};

// Its bytes cannot be read where it is 5.
struct Fragile {
  int number = 0;
};

template <>
struct workers::ResultCodec<Fragile> {
  static std::string to_bytes(const Fragile& fragile) { return std::to_string(fragile.number); }
  static Fragile from_bytes(std::string_view bytes) {
    if (bytes == "5") throw std::runtime_error("no Fragile");
    return {std::stoi(std::string(bytes))};
  }
};

namespace {

using testing::expect_refusal;

int tripled(int item) {
  return 3 * item;
}

struct ChunkCase {
  WorkerKind kind;
  int workers;
};

class ChunkedMap : public ::testing::TestWithParam<ChunkCase> {
 protected:
  static TaskPoolOptions options() {
    return TaskPoolOptions().workers(GetParam().workers).kind(GetParam().kind).queue(4);
  }
};

/// The results as text, with the items that failed in brackets, whatever was thrown.
template <class Results>
std::vector<std::string> texts_of(Results& results) {
  std::vector<std::string> texts;
  while (true) {
    try {
      const auto value = results.next();
      if (!value) return texts;
      if constexpr (requires { value->first; }) {
        texts.push_back(std::to_string(value->first) + ":" + std::to_string(value->second));
      } else {
        texts.push_back(std::to_string(*value));
      }
    } catch (const TaskError& error) {
      texts.push_back("[" + std::to_string(error.item()) + "]");
    } catch (const TaskCancelledError&) {
      texts.push_back("[cancelled]");
    } catch (const TaskQueueFullError&) {
      texts.push_back("[full]");
    } catch (const c10::Error&) {
      texts.push_back("[refused]");
    } catch (const std::runtime_error& error) {
      texts.push_back(std::string("[") + error.what() + "]");
    }
  }
}

TEST_P(ChunkedMap, GivesWhatSingleItemsGive) {
  TaskPool pool(options());
  std::vector<int> items(50);
  std::iota(items.begin(), items.end(), 0);
  const auto expected = pool.map(items, &tripled).to_vector();
  for (const int chunk : {2, 7, 50, 1000}) {
    SCOPED_TRACE(chunk);
    auto results = pool.map(items, &tripled, chunk);
    EXPECT_EQ(results.size(), 50U);
    EXPECT_EQ(results.to_vector(), expected);
    EXPECT_EQ(results.taken(), 50U);
    std::set<std::size_t> places;
    for (const auto& [place, value] : pool.map_unordered(items, &tripled, chunk)) {
      EXPECT_EQ(value, expected[place]);
      places.insert(place);
    }
    EXPECT_EQ(places.size(), 50U);
  }
}

TEST_P(ChunkedMap, TakesWhatSingleItemsMayBe) {
  TaskPool pool(options());
  EXPECT_TRUE(pool.map(std::vector<int>(), &tripled, 3).to_vector().empty());
  EXPECT_EQ(pool.map(
                    std::views::iota(0, 10), [](int) {}, 3)
                .to_vector()
                .size(),
            10U);
  EXPECT_EQ(pool.map(
                    std::vector<bool>{true, false, true}, [](auto item) { return !item; }, 2)
                .to_vector(),
            (std::vector<bool>{false, true, false}));
  std::istringstream words("some words of a text");
  EXPECT_EQ(pool.map(
                    std::views::istream<std::string>(words),
                    [](const std::string& word) { return word + "!"; }, 2)
                .to_vector(),
            (std::vector<std::string>{"some!", "words!", "of!", "a!", "text!"}));
  std::vector<torch::Tensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back(torch::full({1000}, i));
  int next = 0;
  for (const auto& sum : pool.map(
           tensors, [](torch::Tensor given) { return given.sum(); }, 2)) {
    EXPECT_EQ(sum.item<int>(), 1000 * next++);
  }
  EXPECT_EQ(next, 5);
}

TEST_P(ChunkedMap, AnErrorIsThatOfTheItemAtFault) {
  std::vector<std::size_t> progress;
  TaskPool pool(options().progress(
      [&](std::size_t over, std::size_t all) { progress.push_back(over + all); }));
  const auto function = [](int item) {
    if (item == 5) throw std::runtime_error("five");
    return item;
  };
  auto results = pool.map(std::views::iota(0, 10), function, 4);
  EXPECT_EQ(texts_of(results),
            (std::vector<std::string>{"0", "1", "2", "3", "4", "[5]", "6", "7", "8", "9"}));
  EXPECT_EQ(results.taken(), 10U);
  EXPECT_EQ(progress, (std::vector<std::size_t>{11, 12, 13, 14, 15, 16, 17, 18, 19, 20}));
  auto unordered = pool.map_unordered(std::views::iota(0, 10), function, 4);
  auto texts = texts_of(unordered);
  std::sort(texts.begin(), texts.end());
  EXPECT_EQ(texts, (std::vector<std::string>{"0:0", "1:1", "2:2", "3:3", "4:4", "6:6", "7:7", "8:8",
                                             "9:9", "[5]"}));
}

TEST_P(ChunkedMap, EachItemHasAFunctionOfItsOwn) {
  TaskPool pool(options());
  const auto count = [calls = 0](int) mutable { return ++calls; };
  EXPECT_EQ(pool.map(std::views::iota(0, 7), count, 3).to_vector(), std::vector<int>(7, 1));
}

TEST_P(ChunkedMap, WhatTheRangeThrowsLosesNoItem) {
  TaskPool pool(options());
  int left = 2;
  const auto numbers = std::views::iota(0, 9) | std::views::transform([&](int item) {
                         if (item == 5 && left-- > 0) throw std::runtime_error("range");
                         return item;
                       });
  auto results = pool.map_unordered(numbers, &tripled, 4);
  auto texts = texts_of(results);
  EXPECT_EQ(std::erase(texts, "[range]"), 2U);
  std::sort(texts.begin(), texts.end());
  EXPECT_EQ(texts, (std::vector<std::string>{"0:0", "1:3", "2:6", "3:9", "4:12", "5:15", "6:18",
                                             "7:21", "8:24"}));
}

// Items that are done alone find room, although chunks are under way.
TEST_P(ChunkedMap, DoesNotFillItsOwnQueue) {
  for (const int queue : {1, 2, 3}) {
    SCOPED_TRACE(queue);
    TaskPool pool(options().queue(queue).when_full(WhenFull::Throw));
    const auto function = [](int item) {
      if (item % 5 == 1) throw std::runtime_error("one");
      return item;
    };
    for (const bool is_ordered : {true, false}) {
      std::vector<std::string> texts;
      if (is_ordered) {
        auto results = pool.map(std::views::iota(0, 12), function, 3);
        texts = texts_of(results);
      } else {
        auto results = pool.map_unordered(std::views::iota(0, 12), function, 3);
        texts = texts_of(results);
      }
      EXPECT_EQ(texts.size(), 12U);
      EXPECT_EQ(std::count(texts.begin(), texts.end(), "[full]"), 0);
      EXPECT_EQ(
          std::count_if(texts.begin(), texts.end(), [](auto& text) { return text[0] == '['; }), 3);
    }
  }
}

TEST_P(ChunkedMap, ResultsMayBeLeft) {
  TaskPool pool(options());
  const auto function = [](int item) {
    if (item < 4) throw std::runtime_error("none");
    return item;
  };
  {
    auto results = pool.map(std::views::iota(0, 1000), function, 4);
    EXPECT_THROW(static_cast<void>(results.next()), TaskError);
  }
  EXPECT_EQ(pool.submit(&tripled, 2).get(), 6);
  EXPECT_TRUE(pool.close(std::chrono::minutes(5)));
}

TEST_P(ChunkedMap, AnItemThatCannotTravelCostsNoOther) {
  TaskPool pool(options());
  std::vector<torch::Tensor> items;
  for (int i = 0; i < 7; ++i) items.push_back(torch::full({2}, i, torch::kFloat));
  items[3] = torch::ones({2}).requires_grad_(true);
  const auto function = [](torch::Tensor given) {
    TORCH_CHECK(!given.requires_grad(), "requires a gradient");
    return given.sum().item<int>();
  };
  auto results = pool.map(items, function, 3);
  const std::string fault = GetParam().kind == WorkerKind::Process ? "[refused]" : "[3]";
  EXPECT_EQ(texts_of(results), (std::vector<std::string>{"0", "2", "4", fault, "8", "10", "12"}));
  auto unordered = pool.map_unordered(items, function, 3);
  auto texts = texts_of(unordered);
  EXPECT_EQ(texts.size(), 7U);
  EXPECT_EQ(std::count(texts.begin(), texts.end(), fault), 1);
}

TEST_P(ChunkedMap, CancelledChunksAreNotDoneAlone) {
  TaskPool pool(options().workers(1));
  // The second chunk holds the worker while those behind it are cancelled.
  auto results = pool.map(
      std::views::iota(0, 8),
      [](int item) {
        if (item == 2) std::this_thread::sleep_for(std::chrono::milliseconds(300));
        return item;
      },
      2);
  EXPECT_EQ(results.next(), 0);
  EXPECT_EQ(results.next(), 1);
  const auto cancelled = 2 * pool.cancel_all();
  std::vector<std::string> expected;
  for (std::size_t item = 2; item < 8; ++item) {
    expected.push_back(item < 8 - cancelled ? std::to_string(item) : "[cancelled]");
  }
  EXPECT_EQ(texts_of(results), expected);
}

TEST_P(ChunkedMap, RefusesWhatCannotBe) {
  TaskPool pool(options());
  for (const int chunk : {0, -1}) {
    expect_refusal([&] { static_cast<void>(pool.map(std::vector{1}, &tripled, chunk)); },
                   "chunk_size is " + std::to_string(chunk) + "; it must be at least 1");
  }
  int (*none)(int) = nullptr;
  expect_refusal([&] { static_cast<void>(pool.map(std::vector{1}, none, 2).next()); },
                 "the function is a null pointer");
  const auto tickets = [] {
    return std::views::iota(1, 4) | std::views::transform([](int item) { return Ticket(item); });
  };
  const auto number = [](const Ticket& ticket) { return *ticket.number; };
  EXPECT_EQ(pool.map(tickets(), number).to_vector(), (std::vector<int>{1, 2, 3}));
  expect_refusal([&] { static_cast<void>(pool.map(tickets(), number, 2)); },
                 "the items cannot be copied");
  const auto books = [] {
    return std::views::iota(1, 4) | std::views::transform([](int item) {
             std::vector<Ticket> book;
             book.emplace_back(item);
             return book;
           });
  };
  const auto first = [](const std::vector<Ticket>& book) { return *book.front().number; };
  EXPECT_EQ(pool.map(books(), first).to_vector(), (std::vector<int>{1, 2, 3}));
  expect_refusal([&] { static_cast<void>(pool.map(books(), first, 2)); },
                 "the items cannot be copied");
}

INSTANTIATE_TEST_SUITE_P(
    , ChunkedMap,
    ::testing::Values(ChunkCase{WorkerKind::Process, 1}, ChunkCase{WorkerKind::Process, 2},
                      ChunkCase{WorkerKind::Process, 3}, ChunkCase{WorkerKind::Thread, 1},
                      ChunkCase{WorkerKind::Thread, 2}),
    [](const auto& given) {
      return (given.param.kind == WorkerKind::Process ? "Processes" : "Threads") +
             std::to_string(given.param.workers);
    });

TEST(ChunkedMapProcesses, AWorkerThatEndsCostsOneItem) {
  TaskPool pool(TaskPoolOptions().workers(2));
  auto results = pool.map(
      std::views::iota(0, 9),
      [](int item) {
        if (item == 6) ::raise(SIGKILL);
        return item;
      },
      4);
  EXPECT_EQ(texts_of(results),
            (std::vector<std::string>{"0", "1", "2", "3", "4", "5", "[6]", "7", "8"}));
}

TEST(ChunkedMapProcesses, AResultThatCannotBeReadCostsNoOther) {
  TaskPool pool(TaskPoolOptions().workers(2));
  auto fragile = pool.map(
      std::views::iota(3, 8), [](int item) { return Fragile{item}; }, 4);
  std::vector<int> read;
  int errors = 0;
  while (true) {
    try {
      const auto value = fragile.next();
      if (!value) break;
      read.push_back(value->number);
    } catch (const std::runtime_error&) {
      ++errors;
    }
  }
  EXPECT_EQ(read, (std::vector<int>{3, 4, 6, 7}));
  EXPECT_EQ(errors, 1);
}

// A thread cannot be ended: its items must not be done twice at once.
TEST(ChunkedMapThreads, AChunkThatTakesTooLongIsNotDoneAgain) {
  static std::atomic<int> calls{0};
  static std::atomic<bool> may_end{false};
  TaskPool pool(TaskPoolOptions()
                    .workers(2)
                    .kind(WorkerKind::Thread)
                    .timeout(std::chrono::milliseconds(1500)));
  auto results = pool.map(
      std::views::iota(0, 4),
      [](int item) {
        if (item == 0) ++calls;
        while (item == 0 && !may_end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return item;
      },
      2);
  EXPECT_EQ(texts_of(results), (std::vector<std::string>{"[0]", "[1]", "2", "3"}));
  EXPECT_EQ(calls, 1);
  may_end = true;
}

TEST(ChunkedMapProcesses, RefusesCodeThatWasLoadedLater) {
  TaskPool pool(TaskPoolOptions().workers(1));
  void* library = ::dlopen(LOCKSTEP_LATE_CODE, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << ::dlerror();
  const auto function = reinterpret_cast<int (*)(int)>(::dlsym(library, "late_function"));
  expect_refusal(
      [&] {
        static_cast<void>(pool.map(std::vector{1, 2}, function, 2).next());
      },
      "late_code.so, which was loaded after the pool was made");
  ::dlclose(library);
}

}  // namespace
}  // namespace lockstep
