// SPDX-License-Identifier: BSD-3-Clause
// A batch that the program does not get is one WorkerError at its turn, with the number of that
// batch, and is counted: for every kind and number of workers, whatever is to blame.
#include <set>

#include "unit/data/loader/sample_policy_support.h"

namespace lockstep::data {
namespace {

using LostBatchesTest = NothingLeftBehind;

std::vector<DataLoaderOptions> kinds_of_workers() {
  return {options_with(0), options_with(1), options_with(3),
          options_with(2).kind(WorkerKind::Thread)};
}

std::string name_of(const DataLoaderOptions& options) {
  return std::to_string(options.workers()) + " workers of kind " +
         std::to_string(static_cast<int>(options.kind()));
}

// Shard s has 3 + 5 s samples, numbered from 100 s upwards.
struct UnevenShards {
  std::set<std::int64_t> broken = {};
  std::size_t shard = 0;
  std::int64_t at = 0;

  void reset(std::size_t number, std::size_t, std::int64_t) {
    shard = number;
    at = 0;
  }
  std::optional<torch::data::Example<>> next() {
    if (at == static_cast<std::int64_t>(3 + 5 * shard)) return std::nullopt;
    const auto value = static_cast<std::int64_t>(100 * shard) + at++;
    if (broken.contains(value)) throw std::runtime_error("torn line");
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

// Workers are given tasks beyond the end of a shard, before they know of it. These are no batches.
TEST_F(LostBatchesTest, BatchesOfShardsAreNumberedAsTheyCome) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> cases{
      {1, 0}, {107, 3}, {205, 4}, {209, 5}, {212, 6}};
  for (const auto& [broken, batch] : cases) {
    for (auto options : kinds_of_workers()) {
      for (const int prefetch : {1, 4}) {
        SCOPED_TRACE(name_of(options) + ", broken " + std::to_string(broken));
        DataLoader loader(UnevenShards{{broken}}, options.shards(3).prefetch_batches(prefetch));
        for (int pass = 0; pass < 2; ++pass) {
          const auto targets = targets_of(loader);
          ASSERT_EQ(targets.errors.size(), 1U);
          EXPECT_EQ(targets.errors[0].batch_index(), batch);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::data
