// SPDX-License-Identifier: BSD-3-Clause
// What becomes of samples that throw: the same for every kind and number of workers, which is
// worked out here from the order alone. Spawned workers are in joint_tests.
#include <lockstep/core/logging.h>

#include <algorithm>
#include <set>
#include <span>
#include <string_view>

#include "unit/data/loader/sample_policy_support.h"

namespace lockstep::data {
namespace {

using SamplePolicyTest = NothingLeftBehind;

std::vector<DataLoaderOptions> every_kind(std::int64_t batch_size) {
  return {options_with(0, batch_size), options_with(1, batch_size), options_with(3, batch_size),
          options_with(2, batch_size).kind(WorkerKind::Thread)};
}

Samples as_they_are(Samples samples) {
  return samples;
}

// Rows of a batch, rows that are written in place, and whole batches.
template <class Check>
void for_each_way(const BrokenNumbers& dataset, const DataLoaderOptions& options,
                  const Check& check) {
  {
    SCOPED_TRACE("rows");
    DataLoader loader(dataset, broken_order(), options);
    check(loader, targets_of(loader));
  }
  {
    SCOPED_TRACE("in place");
    DataLoader loader(BrokenInPlace{dataset}, broken_order(), options);
    check(loader, targets_of(loader));
  }
  SCOPED_TRACE("whole");
  DataLoader loader(dataset, broken_order(), options,
                    [](Samples samples) { return stack(as_they_are(std::move(samples))); });
  check(loader, targets_of(loader));
}

TEST_F(SamplePolicyTest, SkippedAndReplacedSamplesAreTheSameForEveryKindAndNumberOfWorkers) {
  // Scattered ones, a whole batch and more, the beginning, the end, and everything but one.
  const std::vector<std::set<std::size_t>> cases{
      {3, 17}, {8, 9, 10, 11, 12, 13}, {0, 1, 2, 3, 4}, {20, 21, 22}, broken_but(7)};
  for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    for (const auto& broken : cases) {
      for (const std::int64_t batch_size : {1, 4}) {
        if (batch_size == 1 && broken.size() < 6) continue;
        const auto expected = expected_pass(broken, policy, batch_size);
        for (const auto& options : every_kind(batch_size)) {
          SCOPED_TRACE(::testing::Message()
                       << (policy == SamplePolicy::Skip ? "skip " : "replace ") << broken.size()
                       << " of batches of " << batch_size << ", workers " << options.workers());
          for_each_way(BrokenNumbers{broken}, DataLoaderOptions(options).on_failed_sample(policy),
                       [&](auto& loader, const Targets& pass) {
                         EXPECT_EQ(pass.samples, expected.samples);
                         EXPECT_EQ(pass.errors.size(), expected.lost);
                         const auto statistics = loader.statistics();
                         EXPECT_EQ(statistics.skipped_samples, expected.skipped);
                         EXPECT_EQ(statistics.replaced_samples, expected.replaced);
                         EXPECT_EQ(statistics.samples, expected.samples.size());
                         EXPECT_EQ(statistics.lost_batches, expected.lost);
                       });
        }
      }
    }
  }
}

TEST_F(SamplePolicyTest, ByDefaultTheBatchIsAnErrorAtItsTurn) {
  for (const auto& options : every_kind(4)) {
    for_each_way(BrokenNumbers{{3, 17}}, options, [&](auto& loader, const Targets& pass) {
      const auto order = broken_order().indices();
      std::vector<std::int64_t> left;
      for (std::size_t first = 0; first < order.size(); first += 4) {
        const auto batch =
            std::span(order).subspan(first).first(std::min<std::size_t>(4, order.size() - first));
        const bool is_lost = std::any_of(batch.begin(), batch.end(),
                                         [](auto index) { return index == 3 || index == 17; });
        if (!is_lost) left.insert(left.end(), batch.begin(), batch.end());
      }
      EXPECT_EQ(pass.samples, left);
      EXPECT_EQ(pass.errors.size(), 2U);
      EXPECT_EQ(loader.statistics().skipped_samples, 0U);
    });
  }
}

// Nothing of them is left, at the end too: the loop ends by itself, at once.
TEST_F(SamplePolicyTest, PassOfBrokenSamplesAloneIsEmpty) {
  for (const auto& options : every_kind(4)) {
    for_each_way(BrokenNumbers{broken_but(999)},
                 DataLoaderOptions(options).on_failed_sample(SamplePolicy::Skip),
                 [&](auto& loader, const Targets& pass) {
                   EXPECT_TRUE(pass.samples.empty());
                   EXPECT_TRUE(pass.errors.empty());
                   EXPECT_EQ(loader.statistics().skipped_samples, kBrokenCount);
                   EXPECT_EQ(loader.statistics().batches, 0U);
                 });
  }
}

TEST_F(SamplePolicyTest, OnlyWhatTheDatasetThrowsIsASamplesFault) {
  for (const auto& options : every_kind(4)) {
    for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
      const auto chosen = DataLoaderOptions(options).on_failed_sample(policy);
      struct Unlike {
        torch::Tensor get(std::size_t index) { return torch::ones({index == 5 ? 3 : 2}); }
        std::size_t size() const { return 8; }
      };
      DataLoader unlike(Unlike{}, chosen);
      const auto error = error_of_pass(unlike);
      ASSERT_TRUE(error);
      EXPECT_EQ(error->sample_index(), 5);
      DataLoader collated(BrokenNumbers{}, broken_order(), chosen, [](Samples samples) {
        TORCH_CHECK(samples[0].target.item<std::int64_t>() != broken_order().index(4), "collate");
        return stack(std::move(samples));
      });
      const auto pass = pass_over_errors(collated);
      EXPECT_EQ(pass.errors.size(), 1U);
      EXPECT_EQ(collated.statistics().skipped_samples + collated.statistics().replaced_samples, 0U);
    }
  }
}

// Shard s has 30 samples, numbered from 100 s upwards; those in `broken` throw.
struct BrokenStream {
  std::set<std::int64_t> broken;
  std::size_t shard = 0;
  std::int64_t at = 0;

  void reset(std::size_t number, std::size_t, std::int64_t) {
    shard = number;
    at = 0;
  }
  std::optional<torch::data::Example<>> next() {
    if (at == 30) return std::nullopt;
    const auto value = static_cast<std::int64_t>(100 * shard) + at++;
    if (broken.contains(value)) throw std::runtime_error("torn");
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

TEST_F(SamplePolicyTest, StreamsGoOnBehindASampleThatThrows) {
  const std::set<std::int64_t> broken{2, 3, 29, 100, 101, 102, 103, 104, 115};
  for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    std::vector<Targets> passes;
    for (const auto& options : every_kind(4)) {
      DataLoader loader(BrokenStream{broken},
                        DataLoaderOptions(options).shards(2).on_failed_sample(policy));
      const auto& pass = passes.emplace_back(targets_of(loader));
      EXPECT_TRUE(pass.errors.empty());
      EXPECT_EQ(pass.samples, passes[0].samples);
      EXPECT_EQ(pass.samples.size(), 60 - broken.size());
      EXPECT_EQ(pass.samples[4], 105);  // the second shard's first batch is full
      EXPECT_EQ(loader.statistics().skipped_samples, broken.size());
      EXPECT_EQ(loader.statistics().samples, 60 - broken.size());
    }
  }
}

TEST_F(SamplePolicyTest, StreamThatThrowsForEverEnds) {
  struct Gone {
    void reset(std::size_t, std::size_t, std::int64_t) {}
    std::optional<torch::Tensor> next() { throw std::runtime_error("the file is gone"); }
  };
  for (const auto& options : every_kind(4)) {
    DataLoader loader(Gone{}, DataLoaderOptions(options).on_failed_sample(SamplePolicy::Skip));
    const auto pass = pass_over_errors(loader);
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].original_message(), "the file is gone");
    EXPECT_EQ(pass.batches, 0);
  }
}

TEST_F(SamplePolicyTest, FirstMissingSampleIsNamedOnce) {
  for (const auto& options : every_kind(4)) {
    std::vector<std::string> warnings;
    set_log_sink([&](logging::Level level, std::string_view text) {
      if (level == logging::Level::Warning) warnings.emplace_back(text);
    });
    for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
      DataLoader loader(BrokenNumbers{{3}}, broken_order(),
                        DataLoaderOptions(options).on_failed_sample(policy));
      for (int pass = 0; pass < 2; ++pass) static_cast<void>(targets_of(loader));
    }
    set_log_sink({});
    std::erase_if(warnings, [](const auto& text) {
      return text.find("on_failed_sample") == std::string::npos;
    });
    ASSERT_EQ(warnings.size(), 2U);
    EXPECT_EQ(warnings[0],
              "data loader: sample 3 (number 3) is left out (on_failed_sample), because of "
              "std::runtime_error: broken; further ones are counted, in statistics()");
    EXPECT_NE(warnings[1].find("is replaced (on_failed_sample)"), std::string::npos);
  }
}

// A worker that dies while samples are missing finds what was done, and counts nothing twice.
TEST_F(SamplePolicyTest, DyingWorkersChangeNothing) {
  const std::set<std::size_t> broken{3, 8, 9, 10, 11, 17};
  for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    const auto expected = expected_pass(broken, policy, 4);
    {
      constexpr int workers = 2;
      const SharedCounters deaths;
      BrokenNumbers dataset{broken};
      dataset.before = [words = deaths.words](std::size_t index) {
        if (index % 5 == 0 && words[index]++ == 0) ::raise(SIGKILL);
      };
      for_each_way(dataset, options_with(workers).on_failed_sample(policy),
                   [&](auto& loader, const Targets& pass) {
                     EXPECT_EQ(pass.samples, expected.samples);
                     EXPECT_TRUE(pass.errors.empty());
                     EXPECT_EQ(loader.statistics().skipped_samples, expected.skipped);
                     EXPECT_EQ(loader.statistics().replaced_samples, expected.replaced);
                   });
    }
  }
}

// Both policies, each for its samples: 3 throws and 4 kills, which come one after the other.
TEST_F(SamplePolicyTest, PoisonAndThrownSamplesHavePoliciesOfTheirOwn) {
  const std::set<std::size_t> broken{3, 17};
  for (const auto thrown : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    for (const auto poison : {SamplePolicy::Skip, SamplePolicy::Replace}) {
      {
        constexpr int workers = 3;
        BrokenNumbers dataset{broken};
        const auto next = static_cast<std::size_t>(following(3));
        dataset.before = [next](std::size_t index) {
          if (index == next) ::raise(SIGKILL);
        };
        const auto expected = expected_pass(broken, thrown, 4, {next}, poison);
        for_each_way(dataset,
                     options_with(workers).on_failed_sample(thrown).on_poison_sample(poison),
                     [&](auto& loader, const Targets& pass) {
                       EXPECT_EQ(pass.samples, expected.samples);
                       EXPECT_TRUE(pass.errors.empty());
                       EXPECT_EQ(loader.statistics().skipped_samples, expected.skipped);
                       EXPECT_EQ(loader.statistics().replaced_samples, expected.replaced);
                     });
      }
    }
  }
}

// The last batch of all has nothing but poison: the loop ends, and waits for nothing.
TEST_F(SamplePolicyTest, LastBatchOfPoisonEndsTheLoop) {
  BrokenNumbers dataset;
  dataset.before = [](std::size_t index) {
    if (index >= 20) ::raise(SIGKILL);
  };
  DataLoader loader(
      dataset, DistributedSampler(kBrokenCount, 1, 0, DistributedSamplerOptions().shuffle(false)),
      options_with(2).on_poison_sample(PoisonPolicy::Skip));
  const auto pass = targets_of(loader);
  EXPECT_EQ(pass.samples.size(), 20U);
  EXPECT_TRUE(pass.errors.empty());
  EXPECT_EQ(loader.statistics().skipped_samples, kBrokenCount - 20);
}

}  // namespace
}  // namespace lockstep::data
