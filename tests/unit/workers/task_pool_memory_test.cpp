// SPDX-License-Identifier: BSD-3-Clause
// Where arguments and results lie.
#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>

#include <csignal>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "support/expected_errors.h"
#include "task_pool_test_support.h"

namespace lockstep {

namespace {

using testing::expect_refusal;
using testing::TaskPoolProcesses;
using testing::TaskPoolTest;

TEST_P(TaskPoolTest, ResultsAreLeftInPlaceAndOutliveThePool) {
  std::vector<torch::Tensor> kept;
  {
    TaskPool pool(options().leases(3));
    for (int i = 0; i < 8; ++i) {
      kept.push_back(pool.submit(
                             [](int value) {
                               return torch::full({200, 300}, value, torch::kInt);
                             },
                             i)
                         .get());
    }
    const auto statistics = pool.statistics();
    if (has_processes()) {
      EXPECT_EQ(statistics.leased, 3U);
      EXPECT_EQ(statistics.copied, 5U);
    }
    kept.erase(kept.begin(), kept.begin() + 2);
    if (has_processes()) {
      EXPECT_EQ(pool.statistics().leased, 1U);
    }
    // Memory that is given back is used again, and what is held is not.
    for (int i = 0; i < 20; ++i) {
      const auto other = pool.submit([] { return torch::full({200, 300}, -1, torch::kInt); }).get();
      EXPECT_TRUE(torch::equal(other, torch::full({200, 300}, -1, torch::kInt)));
    }
  }
  for (int i = 2; i < 8; ++i) {
    const auto& tensor = kept[static_cast<std::size_t>(i - 2)];
    EXPECT_TRUE(torch::equal(tensor, torch::full({200, 300}, i, torch::kInt)));
    tensor.add_(1);
  }
}

TEST_P(TaskPoolTest, UntakenResultsDoNotExhaustThePool) {
  TaskPool pool(options().queue(4).leases(2));
  std::vector<TaskFuture<torch::Tensor>> futures;
  for (int i = 0; i < 40; ++i) {
    futures.push_back(pool.submit(
        [](int value) {
          return torch::full({100, 100}, value, torch::kLong);
        },
        i));
  }
  for (int i = 39; i >= 0; --i) {
    EXPECT_TRUE(torch::equal(futures[static_cast<std::size_t>(i)].get(),
                             torch::full({100, 100}, i, torch::kLong)));
  }
}

TEST_P(TaskPoolTest, TensorsOfThePoolAreNotCopied) {
  TaskPool pool(options());
  auto shared = pool.empty({256, 256}, torch::kInt);
  shared.fill_(3);
  // A worker that writes to it writes to the program's.
  pool.submit([](torch::Tensor given) { given.slice(0, 0, 128).fill_(5); }, shared).get();
  EXPECT_EQ(shared.sum().item<std::int64_t>(), 128 * 256 * 8);
  const auto view = shared.t().slice(0, 10, 20);
  EXPECT_TRUE(torch::equal(
      pool.submit([](torch::Tensor given) { return given.clone(); }, view).get(), view));
  // A result is such a tensor, too.
  auto result = pool.submit([] { return torch::zeros({256, 256}); }).get();
  pool.submit([](torch::Tensor given) { given.fill_(1); }, result).get();
  EXPECT_EQ(result.sum().item<float>(), 256 * 256);
  EXPECT_EQ(pool.empty({0, 3}).sizes(), (std::vector<std::int64_t>{0, 3}));
  expect_refusal(
      [&] { static_cast<void>(pool.empty({2}, torch::TensorOptions().requires_grad(true))); },
      "without requires_grad");
  expect_refusal([&] { static_cast<void>(pool.empty({2, -1})); }, "none of them may be negative");
  constexpr auto kHuge = std::int64_t{1} << 32;
  expect_refusal([&] { static_cast<void>(pool.empty({kHuge, kHuge})); }, "overflow");
  expect_refusal([&] { static_cast<void>(task_output({kHuge, kHuge})); }, "overflow");
  const auto channels_last =
      torch::TensorOptions().memory_format(torch::MemoryFormat::ChannelsLast);
  expect_refusal(
      [&] {
        static_cast<void>(pool.empty({1, 2, 3, 4}, channels_last));
      },
      "for another memory format");
  expect_refusal(
      [&] { static_cast<void>(task_output({1}, torch::TensorOptions().pinned_memory(true))); },
      "neither pinned");
}

TEST_P(TaskPoolTest, OutputsAreHandedOverOrCopied) {
  TaskPool pool(options());
  const auto fill = [](int value) {
    auto output = task_output({128, 128}, torch::kInt);
    output.fill_(value);
    return output;
  };
  std::vector<torch::Tensor> results;
  for (int i = 0; i < 5; ++i) results.push_back(pool.submit(fill, i).get());
  // One that is not returned, one that is returned in part, and one twice.
  const auto parts = [](int value) {
    static_cast<void>(task_output({64}));
    auto part = task_output({128, 128}, torch::kInt);
    auto twice_there = task_output({128, 128}, torch::kInt);
    part.fill_(value);
    twice_there.fill_(-value);
    return std::make_tuple(part[3], twice_there, twice_there);
  };
  for (int i = 0; i < 100; ++i) {
    const auto [row, first, second] = pool.submit(parts, i).get();
    EXPECT_TRUE(torch::equal(row, torch::full({128}, i, torch::kInt)));
    EXPECT_TRUE(torch::equal(first, torch::full({128, 128}, -i, torch::kInt)));
    EXPECT_TRUE(torch::equal(second, first));
    if (has_processes()) {
      EXPECT_NE(first.data_ptr(), second.data_ptr());
    }
  }
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(torch::equal(results[static_cast<std::size_t>(i)],
                             torch::full({128, 128}, i, torch::kInt)));
  }
  // Outside of a task, and more of them than there is room for.
  EXPECT_EQ(task_output({2, 2}).numel(), 4);
  const auto sum = pool.submit([] {
                         std::vector<torch::Tensor> many;
                         for (int i = 0; i < 100; ++i) {
                           many.push_back(task_output({1000}, torch::kInt));
                           many.back().fill_(i);
                         }
                         return many;
                       })
                       .get();
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(
        torch::equal(sum[static_cast<std::size_t>(i)], torch::full({1000}, i, torch::kInt)));
  }
}

TEST_P(TaskPoolProcesses, WorkersThatDieLeaveNoMemoryBehind) {
  TaskPool pool(options().queue(4).leases(2));
  // With blocks for outputs and results at their end, more often than there are blocks.
  for (int i = 0; i < 40; ++i) {
    auto future = pool.submit([] {
      std::vector<torch::Tensor> outputs;
      for (int each = 0; each < 10; ++each) outputs.push_back(task_output({1000}));
      if (outputs.size() == 10) ::raise(SIGKILL);
      return outputs;
    });
    EXPECT_THROW(static_cast<void>(future.get()), TaskError);
  }
  const auto result = pool.submit([] {
                            std::vector<torch::Tensor> outputs;
                            for (int each = 0; each < 3; ++each) {
                              outputs.push_back(task_output({1000}, torch::kInt));
                              outputs.back().fill_(each);
                            }
                            return outputs;
                          })
                          .get();
  EXPECT_EQ(result[2].sum().item<std::int64_t>(), 2000);
  EXPECT_EQ(pool.statistics().leased, 2U);  // and the third, which was copied
}

TEST(TaskPoolProcess, ATaskThatKeepsItsArgumentFails) {
  static torch::Tensor kept;  // before the workers, which have it as it is then
  TaskPool pool(TaskPoolOptions().workers(1));
  for (const std::int64_t size : {4, 100'000}) {
    expect_refusal(
        [&] { pool.submit([](torch::Tensor x) { kept = x; }, torch::ones({size})).get(); },
        "keeps a tensor that was its argument");
    // The process that has it is gone, and so is what it kept.
    EXPECT_FALSE(pool.submit([] { return kept.defined(); }).get());
    const auto keep_and_throw = [](torch::Tensor x) {
      kept = x;
      throw std::runtime_error("no room");
    };
    expect_refusal([&] { pool.submit(keep_and_throw, torch::ones({size})).get(); },
                   "no room; the function keeps a tensor that was its argument");
    EXPECT_FALSE(pool.submit([] { return kept.defined(); }).get());
    pool.submit([](torch::Tensor x) { kept = x.clone(); }, torch::ones({size})).get();
    EXPECT_EQ(pool.submit([] { return kept.sum(); }).get().item<float>(), static_cast<float>(size));
    pool.submit([] { kept = torch::Tensor(); }).get();
  }
}

TEST(TaskPoolProcess, ExhaustedMemoryForArgumentsIsSaid) {
  TaskPool pool(TaskPoolOptions().workers(1).leases(1).queue(2));
  std::vector<torch::Tensor> tensors;
  expect_refusal(
      [&] {
        for (int i = 0; i < 100; ++i) tensors.push_back(pool.empty({10}));
      },
      "too many of its tensors are alive");
  EXPECT_EQ(tensors.size(), 65U);
  // Arguments that are copied have room all the same.
  EXPECT_EQ(pool.submit([](torch::Tensor x) { return x.numel(); }, torch::ones({10'000})).get(),
            10'000);
}

}  // namespace
}  // namespace lockstep
