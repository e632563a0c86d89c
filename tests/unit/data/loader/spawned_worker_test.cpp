// SPDX-License-Identifier: BSD-3-Clause
// A program of its own, because its workers are the same program again.
#include <lockstep/data/loader/dataset_registry.h>

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <numeric>
#include <set>
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

// Whose targets say by which of its members a sample came.
struct Asking {
  std::future<std::int64_t> get_async(std::size_t index) {
    return std::async(std::launch::async, [index] { return static_cast<std::int64_t>(index); });
  }
  torch::data::Example<> decode(std::size_t, std::int64_t value, SampleRandom& random) {
    return {torch::full({3}, random.uniform()) + torch::rand({3}), torch::tensor({value, kAsked})};
  }
  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    auto sample = decode(index, static_cast<std::int64_t>(index), random);
    sample.target[1] = 0;
    return sample;
  }
  std::size_t size() const { return 30; }
  static constexpr std::int64_t kAsked = 1;
};

// Whose `get_async` ends the process.
struct DeadlyAsking : Asking {
  std::future<std::int64_t> get_async(std::size_t index) {
    if (index == 13) ::raise(SIGKILL);
    return Asking::get_async(index);
  }
};

// "FOLDER" or "FOLDER:INDEX", at whose `files_of` a worker dies. A file for each sample, and one
// more by each process that has named it.
struct Naming {
  std::string folder;
  std::size_t deadly = kSize;

  explicit Naming(const std::string& config) : folder(config.substr(0, config.find(':'))) {
    if (folder.size() < config.size()) deadly = std::stoul(config.substr(folder.size() + 1));
  }
  torch::data::Example<> get(std::size_t index) const {
    return {torch::zeros({1}), torch::tensor(static_cast<std::int64_t>(index))};
  }
  void files_of(std::size_t index, FileParts& parts) const {
    const auto path = folder + "/" + std::to_string(index);
    std::ofstream(path + "." + std::to_string(::getpid())) << "named";
    if (index == deadly) ::raise(SIGKILL);
    parts.add(path);
  }
  std::size_t size() const { return kSize; }
  static constexpr std::size_t kSize = 20;
};
static_assert(NamesItsFiles<Naming>);

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
  result.add("asking", [](const std::string&) { return Asking(); });
  result.add("deadly asking", [](const std::string&) { return DeadlyAsking(); });
  result.add("naming", [](const std::string& config) { return Naming(config); });
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
TEST_F(SpawnedWorkerTest, SamplesFromElsewhereAreTheSameBits) {
  DataLoader inline_loader(Asking(), options_with(0).seed(3).in_flight(0));
  DataLoader loader(Asking(), spawned(2, "").spawn("asking", "").in_flight(5));
  auto expected = inline_loader.begin();
  for (auto& batch : loader) {
    EXPECT_TRUE(torch::equal(batch.data, expected->data));
    EXPECT_TRUE(torch::equal(batch.target.select(1, 0), expected->target.select(1, 0)));
    EXPECT_TRUE((batch.target.select(1, 1) == Asking::kAsked).all().item<bool>());
    ++expected;
  }
  EXPECT_EQ(expected, std::default_sentinel);
  EXPECT_GE(loader.statistics().async_begun, 30U);
  EXPECT_LE(loader.statistics().async_ready, loader.statistics().async_begun);
  EXPECT_GE(loader.statistics().async_depth, 1.0);
}

TEST_F(SpawnedWorkerTest, ASampleWhoseBeginningEndsWorkersIsNamed) {
  DataLoader loader(DeadlyAsking(), spawned(2, "").spawn("deadly asking", "").batch_size(5));
  const auto pass = pass_over_errors(loader);
  EXPECT_EQ(pass.batches, 5);
  ASSERT_EQ(pass.errors.size(), 1U);
  EXPECT_EQ(pass.errors[0].sample_index(), 13);
  EXPECT_EQ(pass.errors[0].signal(), SIGKILL);
}

class NamingWorkerTest : public NothingLeftBehind {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-spawn-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    for (std::size_t index = 0; index < Naming::kSize; ++index) {
      std::ofstream(folder + "/" + std::to_string(index)) << std::string(3000, 'a');
    }
    NothingLeftBehind::SetUp();
  }
  void TearDown() override {
    NothingLeftBehind::TearDown();
    std::filesystem::remove_all(folder);
  }
  [[nodiscard]] DataLoaderOptions options(std::int64_t workers, const std::string& more) const {
    return spawned(workers, "").spawn("naming", folder + more);
  }
  // By whom files were named.
  [[nodiscard]] std::set<std::string> processes() const {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const auto process = entry.path().extension().string();
      if (!process.empty()) found.insert(process.substr(1));
    }
    return found;
  }
  static void expect_all(const std::vector<std::int64_t>& samples) {
    std::vector<std::int64_t> expected(Naming::kSize);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(samples, expected);
  }
  std::string folder;
};

TEST_F(NamingWorkerTest, ReadsAheadWhatItNames) {
  {
    DataLoader loader(Naming(folder), options(1, "").read_ahead(0));
    expect_all(targets_of(loader).samples);
  }
  EXPECT_TRUE(processes().empty());
  for (const int workers : {1, 2}) {
    DataLoader loader(Naming(folder), options(workers, ""));
    EXPECT_TRUE(eventually([&] {
      const auto pass = targets_of(loader);
      expect_all(pass.samples);
      EXPECT_TRUE(pass.errors.empty());
      const auto statistics = loader.statistics();
      return statistics.files_in_cache + statistics.files_read_ahead != 0;
    }));
    EXPECT_EQ(loader.statistics().restarts, 0U);
    EXPECT_EQ(loader.statistics().read_ahead_errors, 0U);
  }
  EXPECT_FALSE(processes().empty());
  EXPECT_FALSE(processes().contains(std::to_string(::getpid())));
}

TEST_F(NamingWorkerTest, NamingFilesMayEndAWorker) {
  DataLoader loader(Naming(folder), options(1, ":1").prepare_next_epoch(false));
  const auto pass = targets_of(loader);
  expect_all(pass.samples);
  EXPECT_TRUE(pass.errors.empty());
  EXPECT_EQ(loader.statistics().restarts, 1U);
}

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
                .find("no dataset 'unknown', only: 'asking' 'configured' 'deadly asking' 'drawing' "
                      "'naming' 'slow to come' 'texts'"),
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
