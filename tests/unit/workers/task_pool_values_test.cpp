// SPDX-License-Identifier: BSD-3-Clause
// What travels to a worker and back, and what is refused.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>

#include <array>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "support/expected_errors.h"
#include "task_pool_test_support.h"

namespace lockstep {

// A type of the program's with a codec.
struct Page {
  std::string title;
  int links = 0;
};

template <>
struct workers::ResultCodec<Page> {
  static std::string to_bytes(const Page& page) {
    return std::to_string(page.links) + ' ' + page.title;
  }
  static Page from_bytes(std::string_view bytes) {
    const auto blank = bytes.find(' ');
    return {std::string(bytes.substr(blank + 1)), std::stoi(std::string(bytes.substr(0, blank)))};
  }
};

// Trivially copyable, but it leads elsewhere, and a codec knows how.
struct TextView {
  const char* data = nullptr;
  std::size_t size = 0;
};

template <>
struct workers::ResultCodec<TextView> {
  static std::string to_bytes(const TextView& view) { return {view.data, view.size}; }
  static TextView from_bytes(std::string_view bytes) {
    static std::set<std::string> texts;
    const auto& text = *texts.emplace(bytes).first;
    return {text.data(), text.size()};
  }
};

namespace {

using testing::expect_refusal;
using testing::TaskPoolTest;
using testing::twice;

static_assert(workers::TaskValue<std::variant<int, double>>);
static_assert(!workers::TaskValue<std::variant<int, const char*>>);
static_assert(!workers::TaskValue<std::variant<int, TextView>>);
static_assert(!workers::TaskValue<std::initializer_list<int>>);
static_assert(!workers::TaskValue<at::OptionalIntArrayRef>);

TEST_P(TaskPoolTest, ValuesOfAllKindsTravel) {
  TaskPool pool(options());
  const auto same = [](auto value) { return value; };
  const auto check = [&](const auto& value) {
    auto copy = value;
    EXPECT_EQ(pool.submit(same, copy).get(), value);
  };
  check(7);
  check(2.5);
  check(true);
  check(std::string("text"));
  check(std::string());
  check(std::string(100'000, 'x'));
  check(std::vector<int>{1, 2, 3});
  check(std::vector<int>{});
  check(std::vector<bool>{true, false, true});
  check(std::vector<double>(50'000, 1.5));
  check(std::vector<std::string>{"a", "", "bc"});
  check(std::vector<std::vector<int>>{{1}, {}, {2, 3}});
  check(std::pair<int, std::string>(3, "three"));
  check(std::tuple<int, std::string, double>(3, "three", 0.5));
  check(std::array<std::string, 2>{"a", "b"});
  check(std::optional<std::string>());
  check(std::optional<std::string>("there"));
  check(std::optional<int>(3));
  check(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
  check(std::unordered_map<int, std::string>{{1, "a"}, {2, "b"}});
  check(std::filesystem::path("/some/where"));
  EXPECT_EQ(pool.submit([](std::string text) { return text.size(); }, "literal").get(), 7U);
  EXPECT_EQ(pool.submit([](std::string text) { return text; }, std::string_view("view")).get(),
            "view");
  const auto page = pool.submit(
                            [](Page given) {
                              return Page{given.title + "!", given.links + 1};
                            },
                            Page{"a title", 2})
                        .get();
  EXPECT_EQ(page.title, "a title!");
  EXPECT_EQ(page.links, 3);
  pool.submit([] {}).get();
  pool.submit([](int, const std::string&) {}, 1, "a").get();
}

TEST_P(TaskPoolTest, ACodecOfTheProgramsComesFirst) {
  TaskPool pool(options());
  const auto text_of = [](const TextView& view) { return std::string(view.data, view.size); };
  const std::string late = "made after the workers";
  const TextView view{late.data(), late.size()};
  EXPECT_EQ(pool.submit(text_of, view).get(), late);
  EXPECT_EQ(text_of(pool.submit([](TextView given) { return given; }, view).get()), late);
  const auto last = [](const std::vector<TextView>& views, std::array<TextView, 1> one,
                       std::optional<TextView> other) {
    return std::string(views.back().data, 4) + one[0].data + other->data;
  };
  EXPECT_EQ(pool.submit(last, std::vector{view}, std::array{view}, std::optional(view)).get(),
            "made" + late + late);
}

TEST_P(TaskPoolTest, TensorsOfAllShapesTravel) {
  TaskPool pool(options());
  std::vector<torch::Tensor> tensors{
      torch::rand({3, 4}),
      torch::rand({}),
      torch::empty({0, 5}),
      torch::rand({300, 400}),
      torch::rand({30, 40}).t(),
      torch::rand({300, 400}).t(),
      torch::rand({300, 400}).slice(1, 3, 390, 2),
      torch::rand({1, 5}).expand({7, 5}),
      torch::rand({2, 3, 8, 8}).contiguous(torch::MemoryFormat::ChannelsLast),
      torch::arange(7, torch::kLong),
      torch::arange(7).to(torch::kByte),
      torch::tensor({true, false}),
      torch::rand({5}).to(torch::kBFloat16),
      torch::rand({5}).to(torch::kHalf),
      torch::rand({5}, torch::kDouble),
      torch::rand({5}, torch::kComplexFloat),
      torch::rand({5}, torch::kComplexFloat).conj(),
  };
  for (const auto& tensor : tensors) {
    const auto back = pool.submit([](torch::Tensor given) { return given; }, tensor).get();
    EXPECT_TRUE(torch::equal(
        pool.submit([](torch::Tensor given) { return given.clone(); }, back).get(), back));
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type());
    EXPECT_EQ(back.sizes(), tensor.sizes());
    EXPECT_TRUE(torch::equal(back, tensor)) << tensor.sizes() << tensor.scalar_type();
    if (tensor.is_non_overlapping_and_dense() && tensor.numel() != 0) {
      EXPECT_EQ(back.strides(), tensor.strides());
    }
  }
  EXPECT_FALSE(
      pool.submit([](torch::Tensor given) { return given; }, torch::Tensor()).get().defined());
  const auto sums = pool.submit(
                            [](std::vector<torch::Tensor> given) {
                              std::map<std::string, torch::Tensor> named;
                              for (const auto& each : given) {
                                named.emplace(std::to_string(named.size()), each.sum());
                              }
                              return std::make_pair(named, given.at(3) + 1);
                            },
                            tensors)
                        .get();
  EXPECT_EQ(sums.first.size(), tensors.size());
  EXPECT_TRUE(torch::equal(sums.second, tensors[3] + 1));
}

TEST(TaskPoolProcess, RefusesTensorsThatCannotTravel) {
  TaskPool pool(TaskPoolOptions().workers(1));
  const auto use = [](torch::Tensor) {};
  expect_refusal([&] { pool.submit(use, torch::ones({2}).requires_grad_(true)).get(); },
                 "requires a gradient");
  expect_refusal(
      [&] {
        pool.submit(use, torch::ones({2, 2}).to_sparse()).get();
      },
      "only dense tensors");
  expect_refusal([&] { pool.submit(use, torch::ones({2}, torch::kMeta)).get(); },
                 "a tensor on meta");
  expect_refusal(
      [&] {
        static_cast<void>(pool.submit([] { return torch::ones({2}).requires_grad_(true); }).get());
      },
      "requires a gradient");
  EXPECT_EQ(
      pool.submit([](torch::Tensor x) { return x.sum(); }, torch::ones({4})).get().item<float>(),
      4);
}

TEST(TaskPoolProcess, RefusesReferencesToLocalVariables) {
  TaskPool pool(TaskPoolOptions().workers(1));
  int local = 3;
  expect_refusal([&] { static_cast<void>(pool.submit([&local] { return local; })); },
                 "captures a reference or a pointer to a local variable");
  TaskPool threads(TaskPoolOptions().workers(1).kind(WorkerKind::Thread));
  EXPECT_EQ(threads.submit([&local] { return local; }).get(), 3);
}

TEST(TaskPoolProcess, RefusesCodeThatWasLoadedLater) {
  const auto load = [] {
    void* library = ::dlopen(LOCKSTEP_LATE_CODE, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library, nullptr) << ::dlerror();
    return library;
  };
  TaskPool before(TaskPoolOptions().workers(1));
  EXPECT_EQ(before.submit(&twice, 2).get(), 4);
  void* library = load();
  const auto function = reinterpret_cast<int (*)(int)>(::dlsym(library, "late_function"));
  EXPECT_EQ(before.submit(&twice, 3).get(), 6);
  expect_refusal([&] { static_cast<void>(before.submit(function, 2)); },
                 "late_code.so, which was loaded after the pool was made");
  {
    TaskPool after(TaskPoolOptions().workers(1));
    EXPECT_EQ(after.submit(function, 2).get(), 6);
    ::dlclose(library);
    expect_refusal([&] { static_cast<void>(after.submit(function, 2)); },
                   "a library that was unloaded");
    EXPECT_EQ(after.submit(&twice, 3).get(), 6);
  }
  TaskPool threads(TaskPoolOptions().workers(1).kind(WorkerKind::Thread));
  library = load();
  const auto again = reinterpret_cast<int (*)(int)>(::dlsym(library, "late_function"));
  EXPECT_EQ(threads.submit(again, 2).get(), 6);
}

}  // namespace
}  // namespace lockstep
