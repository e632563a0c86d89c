// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Parallel.h>
#include <lockstep/core/logging.h>
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/loader/device_prefetcher.h>
#include <lockstep/data/samplers/batch_sampler.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>

#include <atomic>
#include <limits>
#include <string_view>
#include <utility>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using DataLoaderTest = NothingLeftBehind;

struct Recorded {
  std::vector<torch::Tensor> data;
  std::vector<torch::Tensor> target;
};

// Everything that a program sees in several epochs, with an early break and a repeated epoch among
// them.
Recorded record(std::int64_t workers, bool drop_last) {
  DataLoader loader(Numbers{23}, DistributedSampler(23, 2, 1, DistributedSamplerOptions().seed(5)),
                    options_with(workers, 5).drop_last(drop_last));
  Recorded all;
  const auto take = [&](torch::data::Example<>& batch) {
    all.data.push_back(batch.data.clone());
    all.target.push_back(batch.target.clone());
  };
  const auto pass = [&](std::int64_t epoch, std::size_t stop_after) {
    loader.set_epoch(epoch);
    std::size_t seen = 0;
    for (auto& batch : loader) {
      take(batch);
      if (++seen == stop_after) break;
    }
    return seen;
  };
  EXPECT_EQ(loader.size(), drop_last ? 2U : 3U);
  EXPECT_EQ(pass(0, 100), loader.size());
  EXPECT_EQ(pass(0, 100), loader.size());
  EXPECT_EQ(pass(1, 1), 1U);
  EXPECT_EQ(pass(1, 100), loader.size());
  EXPECT_EQ(pass(2, 2), 2U);
  EXPECT_EQ(pass(3, 100), loader.size());
  static_cast<void>(loader.begin());  // started, never looked at
  EXPECT_EQ(pass(4, 100), loader.size());
  return all;
}

TEST_F(DataLoaderTest, GivesTheSameBitsForEveryNumberOfWorkers) {
  for (const bool drop_last : {false, true}) {
    const auto expected = record(0, drop_last);
    for (const int workers : {1, 2, 3}) {
      const auto found = record(workers, drop_last);
      ASSERT_EQ(found.data.size(), expected.data.size());
      for (std::size_t i = 0; i < expected.data.size(); ++i) {
        EXPECT_TRUE(torch::equal(found.data[i], expected.data[i])) << workers << " batch " << i;
        EXPECT_TRUE(torch::equal(found.target[i], expected.target[i])) << workers << " batch " << i;
        EXPECT_EQ(found.data[i].dtype(), expected.data[i].dtype());
      }
    }
  }
}

TEST_F(DataLoaderTest, FollowsTheSamplersOrder) {
  for (const int workers : {0, 2}) {
    DistributedSampler sampler(23, 3, 2, DistributedSamplerOptions().seed(9));
    DataLoader loader(Numbers{23}, sampler, options_with(workers));
    for (const int epoch : {0, 1, 2}) {
      loader.set_epoch(epoch);
      sampler.set_epoch(epoch);
      std::vector<std::int64_t> seen;
      for (auto& batch : loader) {
        EXPECT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{batch.target.size(0), 2, 3}));
        for (std::int64_t row = 0; row < batch.target.size(0); ++row) {
          seen.push_back(batch.target[row].item<std::int64_t>());
          EXPECT_TRUE(torch::equal(
              batch.data[row],
              torch::full({2, 3}, static_cast<double>(seen.back()), torch::kFloat) / 3));
        }
      }
      EXPECT_EQ(seen, sampler.indices());
    }
  }
}

TEST_F(DataLoaderTest, UnevenWorkStaysInOrder) {
  Numbers dataset{40};
  dataset.before = [](std::size_t index) {
    if (index % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  DataLoader loader(dataset, in_order(40), options_with(3, 4));
  std::int64_t expected = 0;
  for (auto& batch : loader) {
    for (int row = 0; row < 4; ++row) EXPECT_EQ(batch.target[row].item<std::int64_t>(), expected++);
  }
  EXPECT_EQ(expected, 40);
}

TEST_F(DataLoaderTest, ProgramMayKeepEveryBatch) {
  std::atomic<int> warnings{0};
  set_log_sink([&](logging::Level level, std::string_view) {
    if (level == logging::Level::Warning) ++warnings;
  });
  std::vector<torch::data::Example<>> kept;
  std::vector<torch::Tensor> rows;
  {
    DataLoader loader(Numbers{200}, in_order(200), options_with(2, 2));
    for (auto& batch : loader) {
      kept.push_back(batch);
      rows.push_back(batch.data[1]);  // a view
    }
    EXPECT_EQ(kept.size(), 100U);
    EXPECT_EQ(warnings, 1);
    EXPECT_EQ(loader.statistics().copies, 96U);  // of 7 slots, one more than workers circulate
  }
  set_log_sink({});
  // The loader is gone, the memory is not.
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].target[0].item<std::int64_t>(), static_cast<std::int64_t>(2 * i));
    EXPECT_FLOAT_EQ(rows[i][0][0].item<float>(), static_cast<float>(2 * i + 1) / 3);
  }
}

TEST_F(DataLoaderTest, SaysHowManyBatchesWereReady) {
  const SharedCounters fetched;
  Numbers dataset{28};
  dataset.before = [words = fetched.words](std::size_t) { ++words[0]; };
  DataLoader loader(dataset, in_order(28), options_with(2).prepare_next_epoch(false));
  auto batch = loader.begin();
  ASSERT_TRUE(eventually([&] { return fetched.words[0] == 28; }));
  while (batch != loader.end()) static_cast<void>(*batch), ++batch;
  // 7, 6, ... 1. Each of the workers may not have finished a batch yet, of the last ones at most.
  EXPECT_LE(loader.statistics().ready_depth, 28.0 / 7);
  EXPECT_GE(loader.statistics().ready_depth, (28.0 - 7 - 6) / 7);
}

// Counts warnings that an epoch has begun again, while `use` is at a loader of this sampler.
template <class Sampler, class Use>
int repetitions(Sampler sampler, const Use& use) {
  int warnings = 0;
  set_log_sink([&](logging::Level level, std::string_view message) {
    if (level == logging::Level::Warning &&
        message.find("call set_epoch before each pass") != std::string_view::npos) {
      ++warnings;
    }
  });
  {
    DataLoader loader(Numbers{20}, std::move(sampler),
                      options_with(2, GivesBatches<Sampler> ? 1 : 4));
    use(loader);
  }
  set_log_sink({});
  return warnings;
}

TEST_F(DataLoaderTest, WarnsOnceWhereAnEpochIsRepeatedUnasked) {
  const DistributedSampler shuffled(20, 1, 0);
  const auto pass = [](auto& loader) {
    for (auto& batch : loader) static_cast<void>(batch);
  };
  const auto thrice = [&](auto& loader) {
    for (int i = 0; i < 3; ++i) pass(loader);
  };
  EXPECT_EQ(repetitions(shuffled, thrice), 1);
  EXPECT_EQ(repetitions(BatchSampler(shuffled, 4), thrice), 1);
  EXPECT_EQ(repetitions(LengthBucketSampler(std::vector<std::int64_t>(20, 1), 1, 0,
                                            LengthBucketSamplerOptions().batch_size(4)),
                        thrice),
            1);
  EXPECT_EQ(repetitions(shuffled,
                        [&](auto& loader) {
                          DevicePrefetcher batches(loader, torch::kCPU);
                          thrice(batches);
                        }),
            1);
  EXPECT_EQ(repetitions(in_order(20), thrice), 0);
  EXPECT_EQ(repetitions(SequentialSampler(20), thrice), 0);
  const std::vector<std::int64_t> all{0, 1, 2};
  EXPECT_EQ(repetitions(SubsetSampler(all, 20), thrice), 1);
  EXPECT_EQ(
      repetitions(SubsetSampler(all, 20, 1, 0, SubsetSamplerOptions().shuffle(false)), thrice), 0);
}

TEST_F(DataLoaderTest, DoesNotWarnOfAnEpochThatIsRepeatedOnPurpose) {
  const DistributedSampler shuffled(20, 1, 0);
  const auto pass = [](auto& loader) {
    for (auto& batch : loader) static_cast<void>(batch);
  };
  EXPECT_EQ(repetitions(shuffled,
                        [&](auto& loader) {
                          for (const int epoch : {0, 1, 1, 0}) {
                            loader.set_epoch(epoch);
                            pass(loader);
                          }
                        }),
            0);
  EXPECT_EQ(repetitions(shuffled,
                        [&](auto& loader) {
                          const auto state = loader.state();
                          pass(loader);
                          loader.load_state(state);
                          pass(loader);
                        }),
            0);
  // One look at the first batch, as programs have it for its shape.
  EXPECT_EQ(repetitions(shuffled,
                        [&](auto& loader) {
                          static_cast<void>(*loader.begin());
                          pass(loader);
                        }),
            0);
}

TEST_F(DataLoaderTest, BatchIsTheWorkersMemory) {
  DataLoader loader(Numbers{400}, in_order(400), options_with(1, 2));
  std::vector<void*> places;
  for (auto& batch : loader) {
    auto* place = batch.data.data_ptr();
    if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  }
  EXPECT_LE(places.size(), 5U);  // one worker with two batches ahead, and three spare slots
}

TEST_F(DataLoaderTest, HandlesOddSamples) {
  struct Strided {
    torch::data::Example<> get(std::size_t index) {
      return {torch::arange(6).view({2, 3}).t().add(static_cast<int64_t>(index)).t().t(), {}};
    }
    std::size_t size() const { return 3; }
  };
  for (const int workers : {0, 1}) {
    DataLoader loader(Strided{}, in_order(3), options_with(workers, 3));
    for (auto& batch : loader) {
      EXPECT_FALSE(batch.target.defined());
      EXPECT_TRUE(torch::equal(batch.data[2], Strided{}.get(2).data));
    }
  }
}

TEST_F(DataLoaderTest, TakesLibTorchDatasets) {
  struct Squares : torch::data::datasets::Dataset<Squares> {
    torch::data::Example<> get(std::size_t index) override {
      const auto value = static_cast<std::int64_t>(index);
      return {torch::tensor({value * value}), torch::tensor(value)};
    }
    torch::optional<std::size_t> size() const override { return 5; }
  };
  for (const int workers : {0, 2}) {
    DataLoader loader(Squares{}, in_order(5), options_with(workers, 5));
    for (auto& batch : loader) {
      EXPECT_TRUE(torch::equal(batch.data.view(-1), torch::arange(5).square()));
    }
  }
}

TEST_F(DataLoaderTest, EmptyShardHasNoBatches) {
  for (const int workers : {0, 1}) {
    DataLoader loader(
        Numbers{2},
        DistributedSampler(2, 4, 3, DistributedSamplerOptions().remainder(Remainder::Exact)),
        options_with(workers));
    EXPECT_EQ(loader.size(), 0U);
    for ([[maybe_unused]] auto& batch : loader) FAIL();
  }
}

TEST_F(DataLoaderTest, WorksAfterThreadsWereBusyHere) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  auto a = torch::rand({512, 512});
  std::atomic<std::int64_t> sum{0};
  at::parallel_for(0, 1 << 20, 1,
                   [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
  EXPECT_EQ(sum, 1 << 20);
  EXPECT_TRUE(torch::matmul(a, a).defined());
  struct Parallel {
    torch::data::Example<> get(std::size_t index) {
      const auto a = torch::full({300, 300}, static_cast<double>(index));
      return {torch::matmul(a, a).add(1), torch::tensor(at::get_num_threads())};
    }
    std::size_t size() const { return 8; }
  };
  DataLoader loader(Parallel{}, in_order(8), options_with(2, 4));
  std::size_t batches = 0;
  for (auto& batch : loader) {
    ++batches;
    EXPECT_TRUE((batch.target == 1).all().item<bool>());
    for (const int pid : descendants(::getpid())) {
      if (process(pid)->parent != ::getpid()) continue;
      const std::filesystem::directory_iterator threads("/proc/" + std::to_string(pid) + "/task");
      EXPECT_EQ(std::distance(begin(threads), end(threads)), 1)
          << "the fork server could not fork safely";
    }
  }
  EXPECT_EQ(batches, 2U);
  at::set_num_threads(before);
}

TEST_F(DataLoaderTest, MayBeBuiltInAThreadThatEnds) {
  std::unique_ptr<DataLoader<Numbers>> loader;
  std::thread([&] {
    loader = std::make_unique<DataLoader<Numbers>>(Numbers{20}, in_order(20), options_with(1));
  }).join();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::size_t batches = 0;
  for (auto& batch : *loader) batches += batch.data.defined();
  EXPECT_EQ(batches, 5U);
}

TEST_F(DataLoaderTest, DatasetKeepsItsOpenFile) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(std::fwrite("abcdef", 1, 6, file), 6U);
  std::fflush(file);
  Numbers dataset{6};
  dataset.before = [fd = ::fileno(file)](std::size_t index) {
    char letter = 0;
    const auto got = ::pread(fd, &letter, 1, static_cast<off_t>(index));
    TORCH_CHECK(got == 1 && letter == "abcdef"[index], "the file is not what it was");
  };
  {
    DataLoader loader(dataset, in_order(6), options_with(2, 2));
    EXPECT_FALSE(error_of_pass(loader).has_value());
  }
  std::fclose(file);
}

TEST_F(DataLoaderTest, OldIteratorsSaySo) {
  DataLoader loader(Numbers{8}, in_order(8), options_with(0));
  auto old = loader.begin();
  auto fresh = loader.begin();
  EXPECT_NE(message_of([&] { static_cast<void>(*old); }).find("earlier pass"), std::string::npos);
  EXPECT_EQ(fresh->target[0].item<std::int64_t>(), 0);
}

TEST_F(DataLoaderTest, RefusesBadOptions) {
  const auto message = [](DataLoaderOptions options, std::size_t count = 4) {
    return message_of([&] { DataLoader loader(Numbers{count}, in_order(4), options); });
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(
      has(message(DataLoaderOptions().batch_size(0)), "batch_size is 0; it must be at least 1"));
  EXPECT_TRUE(has(message(DataLoaderOptions().batch_size(-3)), "batch_size is -3"));
  EXPECT_TRUE(
      has(message(DataLoaderOptions().workers(-1)), "workers is -1; it must be from 0 to 1024"));
  EXPECT_TRUE(has(message(DataLoaderOptions().workers(1025)), "workers is 1025"));
  EXPECT_TRUE(has(message(DataLoaderOptions().prefetch_batches(0)), "prefetch_batches is 0"));
  EXPECT_TRUE(
      has(message(DataLoaderOptions().timeout(std::chrono::milliseconds(0))), "timeout is 0 ms"));
  EXPECT_TRUE(
      has(message(DataLoaderOptions().timeout(std::chrono::milliseconds(-5))), "timeout is -5 ms"));
  EXPECT_TRUE(has(message(DataLoaderOptions(), 0), "dataset is empty"));
  EXPECT_TRUE(
      has(message(DataLoaderOptions(), 3), "the sampler is for 4 samples, the dataset holds 3"));
  // Larger than any epoch: one batch, and no memory for more.
  DataLoader loader(Numbers{4}, in_order(4),
                    options_with(1).batch_size(std::numeric_limits<std::int64_t>::max()));
  EXPECT_EQ(loader.size(), 1U);
  for (auto& batch : loader) EXPECT_EQ(batch.data.size(0), 4);
}

}  // namespace
}  // namespace lockstep::data
