// SPDX-License-Identifier: BSD-3-Clause
// A program of its own, because its workers are the same program again.
#include <lockstep/data/loader/dataset_registry.h>

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "native/posix/reexec.h"
#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

// "COUNT" or "COUNT:INDEX", at which a worker dies.
struct Configured {
  std::size_t count = 0;
  std::optional<std::size_t> deadly;

  explicit Configured(const std::string& config) {
    std::istringstream text(config);
    char colon = 0;
    std::size_t index = 0;
    TORCH_CHECK(text >> count, "the config is '", config, "'; it must begin with a number");
    if (text >> colon >> index) deadly = index;
  }
  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    if (index == deadly) ::raise(SIGKILL);
    const auto value = static_cast<std::int64_t>(index);
    return {torch::full({3}, random.uniform()), torch::tensor({value, std::int64_t{::getpid()}})};
  }
  std::size_t size() const { return count; }
};

// Each draws another number of times, so that a generator that goes on from sample to sample is
// noticed.
struct Drawing {
  torch::data::Example<> get(std::size_t index) {
    auto data = torch::rand({3});
    for (std::size_t i = 0; i < index % 3; ++i) data += torch::randn({1});
    return {data, torch::randint(1 << 20, {2})};
  }
  std::size_t size() const { return 20; }
};

DatasetRegistry registry() {
  DatasetRegistry result;
  result.add("configured", [](const std::string& config) { return Configured(config); });
  result.add(
      "texts", [](const std::string& config) { return Configured(config); },
      [](const std::vector<torch::data::Example<>>& samples) {
        std::string text = std::getenv("OMPI_COMM_WORLD_RANK") == nullptr ? "" : "a rank";
        for (const auto& sample : samples) {
          text += std::to_string(sample.target[0].item<std::int64_t>()) + " ";
        }
        return text;
      });
  result.add("slow to come", [](const std::string& milliseconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(std::stol(milliseconds)));
    return Configured("6");
  });
  result.add("drawing", [](const std::string&) { return Drawing(); });
  return result;
}

using SpawnedWorkerTest = NothingLeftBehind;

DataLoaderOptions spawned(std::int64_t workers, const std::string& config) {
  return options_with(workers).kind(WorkerKind::Spawn).spawn("configured", config).seed(3);
}

TEST_F(SpawnedWorkerTest, GivesTheSameBits) {
  DataLoader inline_loader(Configured("10"), options_with(0).seed(3));
  DataLoader loader(Configured("10"), spawned(2, "10"));
  for (const int epoch : {0, 1}) {
    inline_loader.set_epoch(epoch);
    loader.set_epoch(epoch);
    auto expected = inline_loader.begin();
    for (auto& batch : loader) {
      EXPECT_TRUE(torch::equal(batch.data, expected->data));
      EXPECT_TRUE(torch::equal(batch.target.select(1, 0), expected->target.select(1, 0)));
      EXPECT_FALSE((batch.target.select(1, 1) == ::getpid()).any().item<bool>());
      ++expected;
    }
    EXPECT_EQ(expected, std::default_sentinel);
  }
}

TEST_F(SpawnedWorkerTest, DeadlySampleIsNamed) {
  DataLoader loader(Configured("10"), spawned(1, "10:5"));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->sample_index(), 5);
  EXPECT_EQ(error->signal(), SIGKILL);
}

// The timeout is for samples.
TEST_F(SpawnedWorkerTest, ProgramMayTakeLongerToStartThanASample) {
  expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    // More than a rank waits for samples: twice the timeout and a second.
    const auto start = 2 * timeout + std::chrono::milliseconds(1500);
    DataLoader loader(
        Configured("6"),
        spawned(1, "6").spawn("slow to come", std::to_string(start.count())).timeout(timeout));
    const auto pass = pass_over_errors(loader);
    if (!pass.errors.empty()) return pass.errors[0].what();
    return pass.batches == 2 ? "" : std::to_string(pass.batches) + " batches";
  });
}

// From LibTorch's functions, without a generator of their own.
TEST_F(SpawnedWorkerTest, SamplesDrawTheSameBits) {
  const auto epochs_of = [](const DataLoaderOptions& options) {
    DataLoader loader(Drawing(), options);
    std::vector<torch::Tensor> all;
    for (const int epoch : {0, 1}) {
      loader.set_epoch(epoch);
      for (auto& batch : loader) {
        all.push_back(torch::cat({batch.data, batch.target.to(torch::kFloat)}, 1));
      }
    }
    return torch::cat(all);
  };
  const auto expected = epochs_of(options_with(0, 5).seed(8));
  EXPECT_FALSE(torch::equal(expected.slice(0, 0, 20), expected.slice(0, 20)));
  EXPECT_TRUE(torch::equal(epochs_of(options_with(2, 5).seed(8)), expected));
  for (const int workers : {1, 2}) {
    const auto options = spawned(workers, "").batch_size(5).seed(8).spawn("drawing", "");
    EXPECT_TRUE(torch::equal(epochs_of(options), expected)) << workers;
  }
}

TEST_F(SpawnedWorkerTest, CollatesWhatItsRegistrySays) {
  DataLoader loader(Configured("20"), spawned(2, "20").batch_size(10).spawn("texts", "20"),
                    [](const std::vector<torch::data::Example<>>&) { return std::string(); });
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::string all;
    for (auto& batch : loader) all += batch;
    EXPECT_EQ(all, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 ");
  }
}

TEST_F(SpawnedWorkerTest, WorkersAreNoRanks) {
  ::setenv("OMPI_COMM_WORLD_RANK", "1", 1);
  DataLoader loader(Configured("6"), spawned(1, "6").spawn("texts", "6"),
                    [](const std::vector<torch::data::Example<>>&) { return std::string(); });
  EXPECT_EQ(*loader.begin(), "0 1 2 3 ");
  ::unsetenv("OMPI_COMM_WORLD_RANK");
  EXPECT_TRUE(native::is_launch_variable("PMIX_RANK=3"));
  EXPECT_TRUE(native::is_launch_variable("WORLD_SIZE=3"));
  EXPECT_FALSE(native::is_launch_variable("PATH=/bin"));
  EXPECT_FALSE(native::is_launch_variable("WORLD_SIZES=3"));
}

// The rank is a child of this test.
TEST_F(SpawnedWorkerTest, WorkersDieWithAKilledRank) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const pid_t rank = ::fork();
  if (rank == 0) {
    DataLoader loader(Configured("10"), spawned(2, "10"));
    static_cast<void>(*loader.begin());
    const auto pids = descendants(::getpid());
    const auto bytes = pids.size() * sizeof(int);
    if (::write(pipe[1], pids.data(), bytes) != static_cast<ssize_t>(bytes)) ::_exit(1);
    for (;;) ::pause();
  }
  std::array<int, 8> pids{};
  const auto got = ::read(pipe[0], pids.data(), sizeof(pids));
  EXPECT_EQ(got, static_cast<ssize_t>(3 * sizeof(int)));  // a fork server and two workers
  ::kill(rank, SIGKILL);
  EXPECT_TRUE(eventually([&] {
    return std::all_of(pids.begin(), pids.begin() + got / static_cast<ssize_t>(sizeof(int)),
                       is_gone);
  }));
  ::waitpid(rank, nullptr, 0);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(SpawnedWorkerTest, WhatGoesWrongAtTheStartArrives) {
  const auto text = [](const DataLoaderOptions& options) {
    DataLoader loader(Configured("10"), options);
    const auto error = error_of_pass(loader);
    return error ? error->original_message() : "";
  };
  EXPECT_NE(text(spawned(1, "x")).find("the config is 'x'"), std::string::npos);
  EXPECT_NE(text(spawned(1, "10").spawn("unknown", ""))
                .find("no dataset 'unknown', only: 'configured' 'drawing' 'slow to come' 'texts'"),
            std::string::npos);
  EXPECT_NE(text(spawned(1, "10").spawn("texts", "10"))
                .find("'texts' is of another kind than the loader's"),
            std::string::npos);
  const auto message = [](const DataLoaderOptions& options) {
    return message_of([&] { DataLoader loader(Configured("10"), options); });
  };
  EXPECT_NE(message(options_with(1).kind(WorkerKind::Spawn)).find("call spawn(name, config)"),
            std::string::npos);
  EXPECT_NE(message(spawned(1, "10").worker_init([](std::size_t) {})).find("worker_init"),
            std::string::npos);
  // A program that does not begin with maybe_worker_main would start workers without end.
  ::setenv("LOCKSTEP_DATA_WORKER", "9:0:1", 1);
  EXPECT_NE(message(options_with(0)).find("does not begin with maybe_worker_main"),
            std::string::npos);
  ::unsetenv("LOCKSTEP_DATA_WORKER");
}

}  // namespace
}  // namespace lockstep::data

int main(int argc, char** argv) {
  if (const auto status = lockstep::data::maybe_worker_main(lockstep::data::registry())) {
    return *status;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
