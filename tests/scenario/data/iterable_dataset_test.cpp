// SPDX-License-Identifier: BSD-3-Clause
#include <csignal>
#include <stdexcept>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using IterableDatasetTest = NothingLeftBehind;

// Shard s has 3 + 5 s samples, numbered 100 s + 1000 epoch upwards.
struct Lines {
  std::size_t shard = 0;
  std::int64_t epoch = 0;
  std::size_t at = 0;
  std::function<void(std::size_t shard, std::size_t at)> before = [](std::size_t, std::size_t) {};

  void reset(std::size_t number, std::size_t, std::int64_t of_epoch) {
    shard = number;
    epoch = of_epoch;
    at = 0;
  }
  std::optional<torch::data::Example<>> next() {
    before(shard, at);
    if (at == 3 + 5 * shard) return std::nullopt;
    const auto value = static_cast<std::int64_t>(100 * shard + at++) + 1000 * epoch;
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

std::vector<std::vector<std::int64_t>> stream_of(const DataLoaderOptions& options,
                                                 const Lines& lines = {}, std::int64_t epoch = 0) {
  DataLoader loader(lines, options);
  loader.set_epoch(epoch);
  std::vector<std::vector<std::int64_t>> result;
  for (auto& batch : loader) {
    const auto* first = batch.target.data_ptr<std::int64_t>();
    result.emplace_back(first, first + batch.target.size(0));
    EXPECT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{batch.target.size(0), 2}));
  }
  return result;
}

TEST_F(IterableDatasetTest, ShardsDecideTheOrderAndWorkersDoNot) {
  const std::vector<std::vector<std::int64_t>> expected{{0, 1, 2},
                                                        {100, 101, 102, 103},
                                                        {200, 201, 202, 203},
                                                        {104, 105, 106, 107},
                                                        {204, 205, 206, 207},
                                                        {208, 209, 210, 211},
                                                        {212}};
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const int workers : {0, 1, 2, 5}) {
      for (const int prefetch : {1, 4}) {
        const auto options = options_with(workers).kind(kind).shards(3).prefetch_batches(prefetch);
        EXPECT_EQ(stream_of(options), expected) << workers;
        EXPECT_EQ(stream_of(DataLoaderOptions(options).drop_last(true)),
                  (std::vector<std::vector<std::int64_t>>{expected[1], expected[2], expected[3],
                                                          expected[4], expected[5]}));
        EXPECT_EQ(stream_of(options, {}, 2)[1],
                  (std::vector<std::int64_t>{2100, 2101, 2102, 2103}));
      }
    }
  }
}

TEST_F(IterableDatasetTest, RanksShareTheShards) {
  for (const int workers : {0, 2}) {
    const auto options = options_with(workers, 100).shards(5).world_size(2);
    std::vector<std::size_t> sizes;
    for (const int rank : {0, 1}) {
      for (const auto& batch : stream_of(DataLoaderOptions(options).rank(rank))) {
        EXPECT_EQ(batch[0] / 100 % 2, rank);
        sizes.push_back(batch.size());
      }
    }
    EXPECT_EQ(sizes, (std::vector<std::size_t>{3, 13, 23, 8, 18}));
  }
}

TEST_F(IterableDatasetTest, PassesMayBeBrokenOff) {
  for (const int workers : {0, 2}) {
    DataLoader loader(Lines{}, options_with(workers).shards(3));
    for (int pass = 0; pass < 4; ++pass) {
      auto it = loader.begin();
      EXPECT_EQ(it->target[0].item<std::int64_t>(), 0);
      if (pass % 2 == 1) ++it;
      EXPECT_EQ(it->target[0].item<std::int64_t>(), pass % 2 == 1 ? 100 : 0);
    }
  }
}

TEST_F(IterableDatasetTest, KilledWorkerBeginsItsShardsAnew) {
  Lines lines;
  const auto expected = stream_of(options_with(0).shards(3), lines);
  const auto parent = ::getpid();
  const auto once = std::tmpfile();
  lines.before = [parent, fd = ::fileno(once)](std::size_t shard, std::size_t at) {
    if (::getpid() == parent || shard != 2 || at != 9) return;
    char was_here = 0;
    if (::pread(fd, &was_here, 1, 0) == 1) return;
    if (::pwrite(fd, "x", 1, 0) == 1) ::raise(SIGKILL);
  };
  EXPECT_EQ(stream_of(options_with(2).shards(3), lines), expected);
  std::fclose(once);
}

TEST_F(IterableDatasetTest, FailingShardEndsAndTheOthersGoOn) {
  Lines lines;
  lines.before = [](std::size_t shard, std::size_t at) {
    if (shard == 1 && at == 6) throw std::runtime_error("torn line");
  };
  for (const int workers : {0, 1, 2}) {
    DataLoader loader(lines, options_with(workers).shards(3));
    int errors = 0;
    std::int64_t samples = 0;
    for (auto it = loader.begin(); it != loader.end(); ++it) {
      try {
        samples += it->target.size(0);
      } catch (const WorkerError& error) {
        ++errors;
        EXPECT_EQ(error.original_message(), "torn line");
      }
    }
    EXPECT_EQ(errors, 1);
    EXPECT_EQ(samples, 3 + 4 + 13);
  }
}

TEST_F(IterableDatasetTest, RefusesBadShards) {
  const auto message = [](const DataLoaderOptions& options) {
    return message_of([&] { DataLoader loader(Lines{}, options); });
  };
  EXPECT_NE(message(DataLoaderOptions().shards(2).world_size(3)).find("shards is 2"),
            std::string::npos);
  EXPECT_NE(message(DataLoaderOptions().shards(0)).find("shards is 0"), std::string::npos);
  EXPECT_NE(message(DataLoaderOptions().shards(3).world_size(3).rank(3)).find("rank is 3"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
