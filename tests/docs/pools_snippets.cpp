// SPDX-License-Identifier: BSD-3-Clause
// The programs of docs/pools.md. They run as a test.
#include <gtest/gtest.h>
#include <lockstep/workers/background_tasks.h>
#include <lockstep/workers/task_pool.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace pools_page {
namespace {

namespace fs = std::filesystem;

torch::Tensor decode(const fs::path& path) {
  return torch::full({3, 8, 8}, static_cast<double>(path.native().size()));
}

TEST(PoolsPage, SubmitAndGet) {
  const auto x = torch::rand({100, 100});
  // [submit]
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(2));
  auto future = pool.submit([](torch::Tensor given) { return given.sum(); }, x);
  torch::Tensor sum = future.get();
  // [submit]
  EXPECT_TRUE(torch::allclose(sum, x.sum()));
}

TEST(PoolsPage, Map) {
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(2));
  const std::vector<fs::path> paths{"a", "bb", "ccc"};
  std::vector<torch::Tensor> pictures;
  // [map]
  for (torch::Tensor& picture : pool.map(paths, &decode)) pictures.push_back(picture);
  for (auto& [place, picture] : pool.map_unordered(paths, &decode)) {
    std::cout << paths[place] << ": " << picture.sizes() << '\n';
  }
  // [map]
  EXPECT_EQ(pictures.size(), 3U);
  EXPECT_EQ(pictures[2][0][0][0].item<float>(), 3);
}

TEST(PoolsPage, Failures) {
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(2));
  const auto resize = [](int item) {
    if (item == 1) throw std::runtime_error("no picture");
    return item;
  };
  const std::vector<int> items{0, 1, 2};
  int done = 0;
  // [failures]
  auto results = pool.map(items, resize);
  while (true) {
    try {
      const auto result = results.next();
      if (!result) break;
      ++done;
    } catch (const lockstep::TaskError& error) {  // "item 1 failed: std::runtime_error: no picture"
      std::cout << error.item() << ": " << error.what() << '\n';
    }
  }
  // [failures]
  EXPECT_EQ(done, 2);
}

TEST(PoolsPage, WithoutCopies) {
  // [memory]
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(2));
  auto input = pool.empty({1000, 1000});  // in memory that the workers have, too
  input.fill_(1);
  auto future = pool.submit(
      [](const torch::Tensor& given) {
        auto output = lockstep::task_output({1000, 1000});  // in memory that the program has
        return torch::mul_out(output, given, given);
      },
      input);
  torch::Tensor squares = future.get();
  // [memory]
  EXPECT_EQ(squares.sum().item<float>(), 1e6F);
}

TEST(PoolsPage, Threads) {
  const auto table = torch::rand({100});
  // [threads]
  lockstep::TaskPool pool(
      lockstep::TaskPoolOptions().workers(2).kind(lockstep::WorkerKind::Thread));
  auto future = pool.submit_to_thread([table] { return table.max(); });
  torch::Tensor largest = future.get();
  // [threads]
  EXPECT_TRUE(torch::equal(largest, table.max()));
}

TEST(PoolsPage, Background) {
  const fs::path path = fs::temp_directory_path() / ("pools_page_" + std::to_string(::getpid()));
  // [background]
  lockstep::BackgroundTasks tasks(lockstep::BackgroundTasksOptions().threads(1).queue(64));
  for (int step = 0; step < 3; ++step) {
    std::string line = "step " + std::to_string(step);
    tasks.submit("metrics", [path, line] { std::ofstream(path, std::ios::app) << line << '\n'; });
  }
  tasks.close();  // throws what a task has thrown
  // [background]
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);) last = line;
  EXPECT_EQ(last, "step 2");
  fs::remove(path);
}

}  // namespace
}  // namespace pools_page
