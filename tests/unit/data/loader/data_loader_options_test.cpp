// SPDX-License-Identifier: BSD-3-Clause
// Options that do not apply are refused, and those that do are followed.
#include <lockstep/data/loader/device_prefetcher.h>
#include <lockstep/data/samplers/batch_sampler.h>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using LoaderOptionsTest = NothingLeftBehind;

struct FourSteps {
  std::size_t at = 0;
  void reset(std::size_t, std::size_t, std::int64_t) { at = 0; }
  std::optional<torch::Tensor> next() {
    if (at == 4) return std::nullopt;
    return torch::full({1}, static_cast<double>(at++));
  }
};

std::string whole(const DataLoaderOptions& options) {
  return message_of([&] { DataLoader loader(Numbers{20}, options); });
}
std::string stream(const DataLoaderOptions& options) {
  return message_of([&] { DataLoader loader(FourSteps{}, options); });
}
template <class Sampler = DistributedSampler>
std::string sampled(const DataLoaderOptions& options, Sampler sampler = in_order(20)) {
  return message_of([&] { DataLoader loader(Numbers{20}, sampler, options); });
}

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

// The oracle is the sampler itself, which is compared with Python's index for index.
TEST_F(LoaderOptionsTest, RankAndWorldSizeShareOutAWholeDataset) {
  for (const auto order : {ShuffleOrder::PyTorch, ShuffleOrder::Keyed}) {
    for (const int rank : {0, 1, 2}) {
      DistributedSampler sampler(20, 3, rank, DistributedSamplerOptions().seed(6).order(order));
      DataLoader loader(
          Numbers{20},
          options_with(rank).rank(rank).world_size(3).shuffle(true).shuffle_order(order).seed(6));
      for (const int epoch : {0, 1}) {
        loader.set_epoch(epoch);
        sampler.set_epoch(epoch);
        EXPECT_EQ(targets_of(loader).samples, sampler.indices());
      }
    }
  }
  EXPECT_EQ(DataLoader(Numbers{20}, options_with(0).rank(1).world_size(3)).sampler().indices(),
            (std::vector<std::int64_t>{1, 4, 7, 10, 13, 16, 19}));
  expect_part(whole(DataLoaderOptions().rank(1)), "rank is 1 and world_size is 1");
  expect_part(whole(DataLoaderOptions().rank(-1).world_size(2)), "rank is -1");
  expect_part(whole(DataLoaderOptions().world_size(std::int64_t{1} << 32)),
              "world_size is 4294967296; it must be at most");
}

TEST_F(LoaderOptionsTest, SamplerStandsBesideNoOptionThatDecidesTheSame) {
  expect_part(sampled(DataLoaderOptions().shuffle(true)), "shuffle is on, but the loader is given");
  expect_part(sampled(DataLoaderOptions().world_size(2)), "but the loader is given a sampler");
  expect_part(sampled(DataLoaderOptions().rank(1).world_size(2)),
              "rank is 1 and world_size is 2, but the loader is given a sampler");
  const BatchSampler batches(in_order(20), 4);
  expect_part(sampled(DataLoaderOptions().batch_size(4), batches),
              "batch_size is 4, but the sampler gives batches");
  expect_part(sampled(DataLoaderOptions().drop_last(true), batches),
              "drop_last is on, but the sampler gives batches");
}

TEST_F(LoaderOptionsTest, OptionsOfOtherDatasetsAndWorkersAreRefused) {
  expect_part(stream(DataLoaderOptions().shuffle(true)), "an iterable dataset decides its order");
  expect_part(whole(DataLoaderOptions().shards(4)), "shards is 4, but only an iterable dataset");
  expect_part(sampled(DataLoaderOptions().shards(4)), "shards is 4, but only an iterable dataset");
  expect_part(whole(DataLoaderOptions().shuffle_order(ShuffleOrder::Keyed)),
              "shuffle_order is Keyed, but shuffle is off");
  expect_part(whole(DataLoaderOptions().workers(1).spawn("waves")),
              "spawn names the dataset 'waves', but kind is not Spawn");
  const auto threads = options_with(2).kind(WorkerKind::Thread);
  expect_part(whole(DataLoaderOptions(threads).on_poison_sample(PoisonPolicy::Skip)),
              "on_poison_sample cannot help where kind is Thread");
  expect_part(whole(DataLoaderOptions(threads).worker_memory_limit(1 << 30)),
              "worker_memory_limit is 1073741824, but kind is Thread");
}

TEST_F(LoaderOptionsTest, EmptyDatasetIsNamedWhereThereIsNoSampler) {
  const auto text = message_of([] { DataLoader loader(Numbers{0}, DataLoaderOptions()); });
  expect_part(text, "DataLoader: the dataset is empty; it must hold at least 1 sample");
  EXPECT_EQ(text.find("Sampler"), std::string::npos) << text;
}

TEST_F(LoaderOptionsTest, OrderThatDoesNotFitIntoMemoryNamesTheKeyedOne) {
  Numbers vast{std::size_t{1} << 50};
  for (const int workers : {0, 1}) {
    DataLoader loader(vast, options_with(workers).shuffle(true).prepare_next_epoch(false));
    const auto text = message_of([&] { static_cast<void>(*loader.begin()); });
    expect_part(text, "PyTorch's order of 1125899906842624 samples takes 8589934592 MiB");
    expect_part(text, "DataLoaderOptions::shuffle_order");
    DataLoader keyed(vast, options_with(workers)
                               .shuffle(true)
                               .shuffle_order(ShuffleOrder::Keyed)
                               .prepare_next_epoch(false));
    EXPECT_EQ(keyed.begin()->target.size(0), 4);
  }
}

TEST_F(LoaderOptionsTest, LoaderThatWasMovedFromSaysSo) {
  DataLoader loader(Numbers{20}, options_with(1));
  DevicePrefetcher prefetcher(loader, torch::kCPU);
  auto moved = std::move(loader);
  const auto expect_text = [](const std::function<void()>& call) {
    expect_part(message_of(call), "has been moved from");
  };
  // NOLINTBEGIN(bugprone-use-after-move)
  expect_text([&] { static_cast<void>(loader.begin()); });
  expect_text([&] { static_cast<void>(loader.size()); });
  expect_text([&] { static_cast<void>(loader.state()); });
  expect_text([&] { loader.load_state({}); });
  expect_text([&] { loader.set_epoch(1); });
  expect_text([&] { static_cast<void>(loader.statistics()); });
  expect_text([&] { static_cast<void>(loader.dataset()); });
  expect_text([&] { DevicePrefetcher other(loader, torch::kCPU); });
  expect_text([&] { static_cast<void>(prefetcher.begin()); });
  auto moved_prefetcher = std::move(prefetcher);
  expect_text([&] { static_cast<void>(prefetcher.begin()); });
  expect_text([&] { static_cast<void>(prefetcher.device()); });
  loader = std::move(moved);
  EXPECT_EQ(targets_of(loader).samples.size(), 20U);
  EXPECT_EQ(moved_prefetcher.begin()->target.size(0), 4);
  // NOLINTEND(bugprone-use-after-move)
}

}  // namespace
}  // namespace lockstep::data
