// SPDX-License-Identifier: BSD-3-Clause
// Whatever builds the batches, the program sees the same.
#include <sched.h>

#include <set>
#include <stdexcept>

#include "support/loader_test_support.h"
#include "support/system_call_counter.h"

namespace lockstep::data {
namespace {

using DataVarietyTest = NothingLeftBehind;

// Draws a different number of random numbers for each sample.
struct Noise {
  std::size_t count = 37;

  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    auto data = torch::zeros({5}, torch::kDouble);
    for (int i = 0; i < 5; ++i) data[i] = random.uniform();
    for (std::size_t i = 0; i < index % 3; ++i) random();
    return {data, torch::tensor(random.below(1000))};
  }
  std::size_t size() const { return count; }
};

// The same straight into the batch.
struct NoiseInPlace : Noise {
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target,
                SampleRandom& random) {
    auto* values = reinterpret_cast<double*>(data.data());
    for (int i = 0; i < 5; ++i) values[i] = random.uniform();
    for (std::size_t i = 0; i < index % 3; ++i) random();
    *reinterpret_cast<std::int64_t*>(target.data()) = random.below(1000);
  }
};

template <class Dataset>
torch::Tensor stream_of(const DataLoaderOptions& options) {
  DataLoader loader(Dataset{}, DistributedSampler(37, 1, 0, DistributedSamplerOptions().seed(2)),
                    options);
  std::vector<torch::Tensor> all;
  for (const int epoch : {0, 1, 1}) {
    loader.set_epoch(epoch);
    for (auto& batch : loader) all.push_back(torch::cat({batch.data.flatten(), batch.target}));
  }
  return torch::cat(all);
}

TEST_F(DataVarietyTest, RandomNumbersBelongToTheSample) {
  const auto expected = stream_of<Noise>(options_with(0, 5).seed(8));
  const auto one_epoch = expected.numel() / 3;
  EXPECT_FALSE(
      torch::equal(expected.slice(0, 0, one_epoch), expected.slice(0, one_epoch, 2 * one_epoch)));
  EXPECT_TRUE(
      torch::equal(expected.slice(0, one_epoch, 2 * one_epoch), expected.slice(0, 2 * one_epoch)));
  EXPECT_FALSE(torch::equal(stream_of<Noise>(options_with(0, 5).seed(9)), expected));
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const int workers : {0, 1, 2, 3}) {
      const auto options = options_with(workers, 5).seed(8).kind(kind);
      EXPECT_TRUE(torch::equal(stream_of<Noise>(options), expected)) << workers;
      EXPECT_TRUE(torch::equal(stream_of<NoiseInPlace>(options), expected)) << workers;
      EXPECT_TRUE(
          torch::equal(stream_of<Noise>(DataLoaderOptions(options).prefetch_batches(7)), expected));
    }
  }
}

// What a sample draws is what anybody may draw for it: the loader adds nothing of its own.
TEST_F(DataVarietyTest, GeneratorIsTheOneOfSeedEpochAndIndex) {
  DataLoader loader(Noise{4}, in_order(4), options_with(1, 4).seed(77));
  loader.set_epoch(6);
  SampleRandom random(77, 6, 2);
  EXPECT_EQ(loader.begin()->data[2][0].item<double>(), random.uniform());
}

TEST_F(DataVarietyTest, ThreadsReportExceptionsAndGoOn) {
  Numbers dataset{20};
  dataset.before = [](std::size_t index) {
    if (index == 9) throw std::out_of_range("no such picture");
  };
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    DataLoader loader(dataset, in_order(20), options_with(2).kind(kind));
    const auto pass = pass_over_errors(loader);
    EXPECT_EQ(pass.batches, 4);
    ASSERT_EQ(pass.errors.size(), 1U);
    const auto& error = pass.errors[0];
    EXPECT_EQ(error.exception_type(), "std::out_of_range");
    EXPECT_EQ(error.original_message(), "no such picture");
    EXPECT_EQ(error.sample_index(), 9);
    EXPECT_EQ(error.batch_index(), 2);
    EXPECT_EQ(error.pid() == ::getpid(), kind == WorkerKind::Thread);
  }
}

TEST_F(DataVarietyTest, ThreadThatHangsIsNamedAndLeftAlone) {
  // All other samples must come within the timeout.
  expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    std::atomic<bool> may_go{false};
    std::atomic<bool> has_gone{false};
    Numbers dataset{20};
    dataset.before = [&](std::size_t index) {
      if (index != 9) return;
      while (!may_go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      has_gone = true;
    };
    WholePass pass;
    {
      DataLoader loader(dataset, in_order(20),
                        options_with(2).kind(WorkerKind::Thread).timeout(timeout));
      pass = pass_over_errors(loader);
      may_go = true;
    }
    EXPECT_TRUE(has_gone);
    if (pass.batches != 4 || pass.errors.size() != 1) {
      return std::to_string(pass.batches) + " batches came, and " +
             std::to_string(pass.errors.size()) + " errors";
    }
    EXPECT_EQ(pass.errors[0].failure(), WorkerFailure::TimedOut);
    EXPECT_EQ(pass.errors[0].sample_index(), 9);
    return "";
  });
}

TEST_F(DataVarietyTest, ThreadsHaveADatasetEach) {
  struct Counting {
    std::int64_t calls = 0;
    torch::data::Example<> get(std::size_t) {
      const auto now = ++calls;  // a race, were it shared
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_EQ(now, calls);
      return {torch::tensor(now), torch::tensor(now)};
    }
    std::size_t size() const { return 40; }
  };
  DataLoader loader(Counting{}, in_order(40), options_with(3).kind(WorkerKind::Thread));
  std::size_t batches = 0;
  for (auto& batch : loader) batches += batch.data.defined();
  EXPECT_EQ(batches, 10U);
  EXPECT_EQ(loader.dataset().calls, 0);
}

// Several threads would call one object at once.
TEST_F(DataVarietyTest, ThreadsRefuseADatasetThatCannotBeCopied) {
  struct OneOfAKind : Numbers {
    std::unique_ptr<std::ifstream> file;
  };
  const auto options = [](int workers) { return options_with(workers).kind(WorkerKind::Thread); };
  EXPECT_NE(message_of([&] {
              DataLoader loader(OneOfAKind{Numbers{8}, nullptr}, in_order(8), options(2));
            }).find("2 thread workers need a copy of the dataset each"),
            std::string::npos);
  for (const auto& fitting : {options(0), options(1), options_with(2)}) {
    DataLoader loader(OneOfAKind{Numbers{8}, nullptr}, in_order(8), fitting);
    EXPECT_EQ(pass_over_errors(loader).batches, 2);
  }
}

TEST_F(DataVarietyTest, AllWorkersFillTheFirstBatch) {
  SharedCounters begun;
  Numbers dataset{8};
  dataset.before = [&](std::size_t index) {
    ++begun.words[0];
    // The first sample is not over before another of its batch has begun, in the other worker.
    if (index == 0) eventually([&] { return begun.words[0] > 1; });
  };
  struct Pids : Numbers {
    torch::data::Example<> get(std::size_t index) {
      auto sample = Numbers::get(index);
      sample.target = torch::tensor(static_cast<std::int64_t>(::getpid()));
      return sample;
    }
  };
  DataLoader loader(Pids{dataset}, in_order(8), options_with(2, 8));
  std::set<std::int64_t> pids;
  for (auto& batch : loader) {
    for (int row = 0; row < 8; ++row) pids.insert(batch.target[row].item<std::int64_t>());
  }
  EXPECT_EQ(pids.size(), 2U);
}

TEST_F(DataVarietyTest, WholeDatasetNeedsNoSampler) {
  for (const int workers : {0, 2}) {
    DataLoader plain(Numbers{10}, options_with(workers));
    std::vector<std::int64_t> seen;
    for (auto& batch : plain) {
      for (std::int64_t row = 0; row < batch.target.size(0); ++row) {
        seen.push_back(batch.target[row].item<std::int64_t>());
      }
    }
    EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    DataLoader shuffled(Numbers{10}, options_with(workers, 10).shuffle(true).seed(5));
    const auto order = DistributedSampler(10, 1, 0, DistributedSamplerOptions().seed(5)).indices();
    EXPECT_TRUE(torch::equal(shuffled.begin()->target, torch::tensor(order)));
  }
}

struct Pairs {
  std::size_t size() const { return 3; }
  std::size_t dataset_size() const { return 20; }
  void set_epoch(std::int64_t) {}
  std::vector<std::vector<std::int64_t>> batches() const { return {{3, 1}, {7}, {2, 4, 6, 8, 10}}; }
};

struct Growing {
  std::int64_t add = 0;
  std::size_t size() const { return 4; }
  std::size_t dataset_size() const { return 20; }
  std::size_t largest_batch() const { return 4; }
  void set_epoch(std::int64_t epoch) { add = epoch; }
  std::vector<std::int64_t> batch(std::size_t number) const {
    return std::vector<std::int64_t>(number + 1, static_cast<std::int64_t>(number) + add);
  }
};

TEST_F(DataVarietyTest, SamplersOfBatchesDecideWhatIsABatch) {
  const auto targets = [](auto& loader) {
    std::vector<std::vector<std::int64_t>> result;
    for (auto& batch : loader) {
      const auto* first = batch.target.template data_ptr<std::int64_t>();
      result.emplace_back(first, first + batch.target.size(0));
    }
    return result;
  };
  for (const int workers : {0, 2}) {
    DataLoader pairs(Numbers{20}, Pairs{}, options_with(workers, 1));
    EXPECT_EQ(pairs.size(), 3U);
    EXPECT_EQ(targets(pairs), Pairs{}.batches());
    DataLoader growing(Numbers{20}, Growing{}, options_with(workers, 1));
    growing.set_epoch(3);
    EXPECT_EQ(targets(growing),
              (std::vector<std::vector<std::int64_t>>{{3}, {4, 4}, {5, 5, 5}, {6, 6, 6, 6}}));
    growing.set_epoch(17);  // batch 3 names sample 20
    EXPECT_NE(message_of([&] { targets(growing); }).find("gave the index 20 in batch 3"),
              std::string::npos);
  }
}

struct Lazy {
  std::int64_t epoch_ = 0;
  std::shared_ptr<std::size_t> furthest = std::make_shared<std::size_t>(0);
  std::size_t size() const { return 1'000'000; }
  std::size_t dataset_size() const { return 1'000'000; }
  void set_epoch(std::int64_t epoch) { epoch_ = epoch; }
  std::int64_t index(std::size_t position) const {
    *furthest = std::max(*furthest, position);
    return static_cast<std::int64_t>(999'999 - position);
  }
};

TEST_F(DataVarietyTest, IndicesAreAskedForWhenTheyAreNeeded) {
  for (const int workers : {0, 2}) {
    Lazy sampler;
    DataLoader loader(Numbers{1'000'000}, sampler, options_with(workers));
    auto it = loader.begin();
    EXPECT_EQ(it->target[3].item<std::int64_t>(), 999'996);
    EXPECT_LT(*sampler.furthest, 100U);
  }
}

struct ShortSampler : Lazy {
  void append_indices(std::size_t position, std::size_t count,
                      std::vector<std::int64_t>& indices) const {
    for (std::size_t i = 0; i + position / 8 < count; ++i) indices.push_back(index(position + i));
  }
};

TEST_F(DataVarietyTest, SamplersGiveAsManyIndicesAsTheyAreAskedFor) {
  for (const int workers : {0, 2}) {
    DataLoader loader(Numbers{1'000'000}, ShortSampler(), options_with(workers));
    auto it = loader.begin();
    EXPECT_EQ(it->target[3].item<std::int64_t>(), 999'996);
    EXPECT_EQ((++it)->target[0].item<std::int64_t>(), 999'995);
    const auto message = message_of([&] { static_cast<void>(*++it); });
    EXPECT_NE(message.find("the sampler gave 3 indices from position 8 on, not 4"),
              std::string::npos)
        << message;
  }
}

TEST_F(DataVarietyTest, ReadyBatchCostsNoSystemCall) {
  SystemCallCounter counter;
  if (!counter.is_available()) GTEST_SKIP() << "the kernel cannot dispatch system calls to us";
  ASSERT_EQ(counter.calls_of([] { ::syscall(SYS_getppid); }), std::vector<long>{SYS_getppid});
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    DataLoader loader(Numbers{4000}, in_order(4000),
                      options_with(2).kind(kind).prefetch_batches(6));
    auto it = loader.begin();
    for (int i = 0; i < 5; ++i) ++it;  // memory is mapped, the allocator knows the sizes
    const auto attempt = [&](std::chrono::milliseconds pause) -> std::string {
      int without = 0;
      for (int round = 0; round < 4; ++round) {
        std::this_thread::sleep_for(pause);  // all are ready, workers asleep
        without += counter.calls_of([&] { static_cast<void>(*it); }).empty();
        without += counter.calls_of([&] { ++it; }).empty();
      }
      // One delivery in several wakes the workers.
      return without >= 7 ? "" : std::to_string(8 - without) + " of 8 had system calls";
    };
    expect_with_some_limit(attempt, std::chrono::milliseconds(60));
  }
}

TEST_F(DataVarietyTest, OutOfOrderGivesEveryBatchOnce) {
  SharedCounters received;
  std::atomic<int>& is_second_pass = received.words[1];
  Numbers dataset{80};
  dataset.before = [&](std::size_t index) {  // the first sample waits for another batch's delivery
    if (index == 0 && is_second_pass) eventually([&] { return received.words[0] > 0; });
  };
  DataLoader loader(dataset, in_order(80), options_with(2).in_order(false));
  for (auto& batch : loader) static_cast<void>(batch);  // what samples look like is known now
  is_second_pass = 1;
  std::vector<std::int64_t> firsts;
  for (auto& batch : loader) {
    firsts.push_back(batch.target[0].item<std::int64_t>());
    ++received.words[0];
  }
  ASSERT_EQ(firsts.size(), 20U);
  EXPECT_NE(firsts[0], 0);  // the slow one did not hold up the others
  EXPECT_EQ(std::set<std::int64_t>(firsts.begin(), firsts.end()).size(), 20U);
}

TEST_F(DataVarietyTest, WorkersStayOnTheirCores) {
  struct Cores {
    torch::data::Example<> get(std::size_t) {
      cpu_set_t set;
      CPU_ZERO(&set);
      ::sched_getaffinity(0, sizeof(set), &set);
      return {torch::tensor(CPU_COUNT(&set)), torch::tensor(::sched_getcpu())};
    }
    std::size_t size() const { return 8; }
  };
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof(allowed), &allowed);
  std::size_t core = 0;
  while (!CPU_ISSET(core, &allowed)) ++core;
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    DataLoader loader(Cores{}, in_order(8),
                      options_with(2).kind(kind).worker_cpus({static_cast<int>(core)}));
    for (auto& batch : loader) {
      EXPECT_TRUE((batch.data == 1).all().item<bool>());
      EXPECT_TRUE((batch.target == static_cast<int64_t>(core)).all().item<bool>());
    }
  }
  DataLoader loader(Cores{}, in_order(8), options_with(1).worker_cpus({1023}));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_NE(std::string(error->what()).find("CPU 1023"), std::string::npos) << error->what();
}

TEST_F(DataVarietyTest, StatisticsCountAndNameABottleneck) {
  for (const int workers : {0, 1}) {
    Numbers dataset{40};
    dataset.before = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(4)); };
    DataLoader loader(dataset, in_order(40), options_with(workers));
    EXPECT_EQ(loader.statistics().bottleneck(), "no batch has been taken yet");
    for (auto& batch : loader) static_cast<void>(batch);
    const auto statistics = loader.statistics();
    EXPECT_EQ(statistics.batches, 10U);
    EXPECT_EQ(statistics.samples, 40U);
    EXPECT_EQ(statistics.copies, 0U);
    // Shares of the time, and so who the bottleneck is, depend on what else the machine does; how
    // long the samples slept at least does not.
    EXPECT_GT(statistics.stall_seconds, 0);
    EXPECT_LE(statistics.stall_share(), 1.01);
    EXPECT_GT(statistics.samples_per_second(), 0);
    if (workers != 0) {
      EXPECT_GE(statistics.busy_seconds, 40 * 0.004);
      EXPECT_LT(statistics.compute_seconds, statistics.busy_seconds);
    }
    EXPECT_NE(statistics.bottleneck().find(": the program waits for data "), std::string::npos);
  }
}

TEST_F(DataVarietyTest, BottleneckFollowsFromTheFigures) {
  LoaderStatistics figures;
  figures.batches = 1;
  figures.seconds = 100;
  figures.stall_seconds = 1;
  EXPECT_EQ(figures.bottleneck().substr(0, 9), "consumer:");
  figures.stall_seconds = 50;
  figures.busy_seconds = 100;
  figures.compute_seconds = 90;
  EXPECT_EQ(figures.bottleneck().substr(0, 7), "decode:");
  figures.compute_seconds = 20;
  EXPECT_EQ(figures.bottleneck().substr(0, 8), "storage:");
  figures.delayed_seconds = 70;
  EXPECT_NE(figures.bottleneck().find("free core"), std::string::npos);
  figures.idle_seconds = 300;
  EXPECT_EQ(figures.bottleneck().substr(0, 10), "transport:");
}

TEST_F(DataVarietyTest, RefusesBadOptions) {
  const auto message = [](const DataLoaderOptions& options) {
    return message_of([&] { DataLoader loader(Numbers{4}, in_order(4), options); });
  };
  EXPECT_NE(message(DataLoaderOptions().worker_cpus({-1})).find("names the core -1"),
            std::string::npos);
  EXPECT_NE(message(DataLoaderOptions().worker_memory_limit(-5)).find("worker_memory_limit is -5"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
