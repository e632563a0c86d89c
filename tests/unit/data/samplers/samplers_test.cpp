// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/samplers/batch_sampler.h>
#include <lockstep/data/samplers/distributed_sampler.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>
#include <lockstep/data/samplers/random_sampler.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/stratified_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "support/loader_test_support.h"
#include "unit/data/samplers/statistics.h"

namespace lockstep::data {
namespace {

using Indices = std::vector<std::int64_t>;

static_assert(IndexSampler<SequentialSampler> && IndexSampler<RandomSampler> &&
              IndexSampler<WeightedRandomSampler> && IndexSampler<SubsetSampler> &&
              IndexSampler<StratifiedSampler> && IndexSampler<DistributedSampler>);
static_assert(BatchAccessSampler<BatchSampler<RandomSampler>> &&
              BatchAccessSampler<LengthBucketSampler>);

void fails(const std::function<void()>& call, const std::string& text) {
  const auto message = message_of(call);
  EXPECT_NE(message.find(text), std::string::npos) << message;
}

Indices numbers(std::int64_t count) {
  Indices all(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) all[static_cast<std::size_t>(i)] = i;
  return all;
}

Indices sorted(Indices indices) {
  std::sort(indices.begin(), indices.end());
  return indices;
}

TEST(SequentialSampler, GivesEverythingInOrder) {
  SequentialSampler sampler(7);
  EXPECT_EQ(sampler.indices(), numbers(7));
  sampler.set_epoch(5);
  EXPECT_EQ(sampler.indices(), numbers(7));
  EXPECT_EQ(SequentialSampler(7, 3, 1).indices(), (Indices{1, 4}));
  EXPECT_EQ(SequentialSampler(7, 3, 0).indices(), (Indices{0, 3, 6}));
  EXPECT_EQ(SequentialSampler(7, 3, 1, Remainder::Pad).indices(), (Indices{1, 4, 0}));
  EXPECT_EQ(SequentialSampler(7, 3, 0, Remainder::Drop).indices(), (Indices{0, 3}));
}

TEST(RandomSampler, WithoutReplacementGoesThroughTheDatasetAgainAndAgain) {
  RandomSampler sampler(20, 1, 0, RandomSamplerOptions().num_samples(50).seed(4));
  const auto drawn = sampler.indices();
  ASSERT_EQ(drawn.size(), 50U);
  const Indices first(drawn.begin(), drawn.begin() + 20);
  const Indices second(drawn.begin() + 20, drawn.begin() + 40);
  const Indices rest(drawn.begin() + 40, drawn.end());
  EXPECT_EQ(sorted(first), numbers(20));
  EXPECT_EQ(sorted(second), numbers(20));
  EXPECT_NE(first, second);
  EXPECT_EQ(std::set<std::int64_t>(rest.begin(), rest.end()).size(), 10U);
  sampler.set_epoch(1);
  EXPECT_NE(sampler.indices(), drawn);
  sampler.set_epoch(0);
  EXPECT_EQ(sampler.indices(), drawn);
  EXPECT_NE(RandomSampler(20, 1, 0, RandomSamplerOptions().num_samples(50)).indices(), drawn);
  EXPECT_EQ(RandomSampler(20, 1, 0, RandomSamplerOptions().num_samples(5)).size(), 5U);
}

TEST(RandomSampler, WithReplacementDrawsEachAlike) {
  const RandomSampler sampler(50, 1, 0,
                              RandomSamplerOptions().replacement(true).num_samples(30000).seed(4));
  std::vector<std::size_t> seen(50, 0);
  std::vector<std::size_t> repeats(2, 0);
  std::int64_t last = -1;
  for (const auto index : sampler.indices()) {
    ++seen.at(static_cast<std::size_t>(index));
    if (last >= 0) ++repeats[index == last ? 1 : 0];
    last = index;
  }
  EXPECT_LT(chi_square_sigmas(seen), 5);
  EXPECT_LT(chi_square_sigmas(repeats, {49.0 / 50, 1.0 / 50}), 5);
}

TEST(RandomSampler, SeeksInAThousandMillion) {
  RandomSampler sampler(1000000000, 8, 3);
  sampler.set_epoch(2);
  EXPECT_EQ(sampler.size(), 125000000U);
  EXPECT_EQ(static_cast<std::uint64_t>(sampler.index(77777777)),
            detail::KeyedPermutation(1000000000, 0, 2)(3 + 8 * 77777777ULL));
}

TEST(WeightedRandomSampler, DrawsAsTheWeightsSay) {
  const std::vector<std::vector<double>> cases{
      {1},
      {0, 3, 1, 0, 6},
      {0.1, 0.2, 0.3, 0.4},
      {1e300, 1e300, 2e300},
      {1e-300, 3e-300},
      {5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 100},
  };
  for (const auto& weights : cases) {
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (const double weight : weights) sum += weight / largest;
    std::vector<double> parts;
    for (const double weight : weights) parts.push_back(weight / largest / sum);
    const WeightedRandomSampler sampler(weights, 1, 0,
                                        WeightedRandomSamplerOptions().num_samples(20000).seed(8));
    std::vector<std::size_t> seen(weights.size(), 0);
    for (const auto index : sampler.indices()) ++seen.at(static_cast<std::size_t>(index));
    EXPECT_LT(chi_square_sigmas(seen, parts), 5) << weights.size() << " weights";
  }
}

// Each draw is from what is left, by weight: P(i, then j) = w_i / W * w_j / (W - w_i).
TEST(WeightedRandomSampler, WithoutReplacementDrawsFromWhatIsLeft) {
  const std::vector<double> weights{4, 0, 1, 2, 1};
  std::vector<std::size_t> seen(25, 0);
  std::vector<double> expected(25, 0);
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 5; ++j) {
      if (i != j) expected[i * 5 + j] = weights[i] / 8 * weights[j] / (8 - weights[i]);
    }
  }
  WeightedRandomSampler sampler(weights, 1, 0, WeightedRandomSamplerOptions().replacement(false));
  for (std::int64_t epoch = 0; epoch < 10000; ++epoch) {
    sampler.set_epoch(epoch);
    const auto drawn = sampler.indices();
    ASSERT_EQ(sorted(drawn), (Indices{0, 2, 3, 4}));
    ++seen[static_cast<std::size_t>(drawn[0] * 5 + drawn[1])];
  }
  EXPECT_LT(chi_square_sigmas(seen, expected), 5);
  EXPECT_EQ(WeightedRandomSampler({1e-300, 1e300, 1}, 1, 0,
                                  WeightedRandomSamplerOptions().replacement(false))
                .indices(),
            (Indices{1, 2, 0}));
}

TEST(SubsetSampler, GivesTheChosenOnes) {
  const Indices chosen{3, 99, 4, 4, 0, 50, 7};
  SubsetSampler sampler(chosen, 100);
  EXPECT_EQ(sorted(sampler.indices()), sorted(chosen));
  const auto first = sampler.indices();
  sampler.set_epoch(1);
  EXPECT_EQ(sorted(sampler.indices()), sorted(chosen));
  EXPECT_NE(sampler.indices(), first);
  EXPECT_EQ(sampler.dataset_size(), 100U);
  SubsetSampler fixed(chosen, 100, 1, 0, SubsetSamplerOptions().shuffle(false));
  EXPECT_EQ(fixed.indices(), chosen);
  EXPECT_NE(fixed.fingerprint(), sampler.fingerprint());
}

// Of every kind, for this rank of a world.
std::vector<std::unique_ptr<EpochSampler>> samplers_of(int world, int rank, Remainder remainder) {
  const Indices chosen{3, 49, 4, 4, 0, 30, 7, 1, 1, 2, 9};
  std::vector<double> weights(50, 1.0);
  weights[7] = 9;
  std::vector<std::unique_ptr<EpochSampler>> all;
  for (const bool shuffle : {true, false}) {
    for (const auto order : {ShuffleOrder::PyTorch, ShuffleOrder::Keyed}) {
      all.push_back(std::make_unique<DistributedSampler>(
          50, world, rank,
          DistributedSamplerOptions().shuffle(shuffle).order(order).remainder(remainder)));
    }
    all.push_back(std::make_unique<SubsetSampler>(
        chosen, 50, world, rank, SubsetSamplerOptions().shuffle(shuffle).remainder(remainder)));
    for (const std::uint64_t draws : {0U, 31U, 120U}) {
      all.push_back(std::make_unique<RandomSampler>(
          50, world, rank,
          RandomSamplerOptions().replacement(shuffle).num_samples(draws).remainder(remainder)));
    }
    all.push_back(std::make_unique<WeightedRandomSampler>(
        weights, world, rank,
        WeightedRandomSamplerOptions().replacement(shuffle).remainder(remainder)));
  }
  all.push_back(std::make_unique<SequentialSampler>(50, world, rank, remainder));
  all.push_back(std::make_unique<SequentialSampler>(2, world, rank, remainder));
  return all;
}

TEST(EpochSampler, AllKindsAppendTheIndicesThatTheyGiveOneByOne) {
  for (const auto remainder : {Remainder::Pad, Remainder::Drop, Remainder::Exact}) {
    for (const int world : {1, 3, 8}) {
      for (int rank = 0; rank < world; ++rank) {
        for (auto& sampler : samplers_of(world, rank, remainder)) {
          for (const std::uint64_t start : {0U, 2U, 1U}) {
            sampler->set_epoch(static_cast<std::int64_t>(start));
            sampler->start_at(start);
            Indices expected;
            for (std::size_t at = 0; at < sampler->size(); ++at) {
              expected.push_back(sampler->index(at));
            }
            ASSERT_EQ(sampler->indices(), expected);
            Indices in_batches;
            for (std::size_t at = 0; at < sampler->size(); at += 7) {
              sampler->append_indices(at, std::min<std::size_t>(7, sampler->size() - at),
                                      in_batches);
            }
            ASSERT_EQ(in_batches, expected);
          }
        }
      }
    }
  }
}

// Has no index number 5.
struct BrokenSampler : EpochSampler {
  BrokenSampler() : EpochSampler({"BrokenSampler", 10, 10, 1, 0, 0, Remainder::Pad}) {}
  [[nodiscard]] std::int64_t at(std::uint64_t position) const override {
    if (position == 5) throw std::runtime_error("there is none");
    return static_cast<std::int64_t>(position);
  }
};

TEST(EpochSampler, AppendsNothingWhereOneCannotBeHad) {
  const BrokenSampler sampler;
  Indices found{-7};
  EXPECT_THROW(sampler.append_indices(2, 6, found), std::runtime_error);
  EXPECT_EQ(found, Indices{-7});
  sampler.append_indices(6, 4, found);
  EXPECT_EQ(found, (Indices{-7, 6, 7, 8, 9}));
}

TEST(EpochSampler, AppendsNothingWhereThereIsTooLittle) {
  RandomSampler sampler(50, 3, 1);
  sampler.start_at(9);
  Indices expected{-7};
  for (std::size_t position = 2; position < 8; ++position) {
    expected.push_back(sampler.index(position));
  }
  Indices found{-7};
  sampler.append_indices(2, 6, found);
  EXPECT_EQ(found, expected);
  sampler.append_indices(sampler.size(), 0, found);
  EXPECT_THROW(sampler.append_indices(sampler.size() - 1, 2, found), c10::Error);
  EXPECT_THROW(sampler.append_indices(2, ~std::size_t{0}, found), c10::Error);
  EXPECT_EQ(found, expected);
}

Indices labels_of(const std::vector<int>& counts) {
  Indices labels;
  for (std::size_t c = 0; c < counts.size(); ++c) {
    labels.insert(labels.end(), static_cast<std::size_t>(counts[c]),
                  static_cast<std::int64_t>(c) * 7 - 3);
  }
  std::mt19937 random(3);
  std::shuffle(labels.begin(), labels.end(), random);
  return labels;
}

TEST(StratifiedSampler, EveryWindowHasWholeParts) {
  const auto labels = labels_of({60, 30, 10});
  StratifiedSampler sampler(labels, 1, 0, StratifiedSamplerOptions().window(20).seed(5));
  Indices last;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    sampler.set_epoch(epoch);
    const auto order = sampler.indices();
    EXPECT_EQ(sorted(order), numbers(100));
    EXPECT_NE(order, last);
    last = order;
    for (std::size_t window = 0; window < 5; ++window) {
      std::map<std::int64_t, int> seen;
      for (std::size_t i = 0; i < 20; ++i) {
        ++seen[labels[static_cast<std::size_t>(order[window * 20 + i])]];
      }
      EXPECT_EQ(seen, (std::map<std::int64_t, int>{{-3, 12}, {4, 6}, {11, 2}}));
    }
  }
}

// How far the classes come from what they are due to, when the order begins at `start` and goes
// around.
double largest_lag(const std::vector<std::size_t>& classes, const std::vector<int>& counts,
                   std::size_t start) {
  const auto size = classes.size();
  std::vector<int> seen(counts.size(), 0);
  double largest = 0;
  for (std::size_t i = 0; i < size; ++i) {
    ++seen[classes[(start + i) % size]];
    for (std::size_t c = 0; c < counts.size(); ++c) {
      const double due = static_cast<double>(i + 1) * counts[c] / static_cast<double>(size);
      largest = std::max(largest, std::abs(seen[c] - due));
    }
    if (largest >= 2) break;
  }
  return largest;
}

TEST(StratifiedSampler, EachClassKeepsPaceWhateverTheCounts) {
  std::mt19937 random(17);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<int> counts(1 + random() % 9);
    for (auto& count : counts) count = 1 + static_cast<int>(random() % (trial % 2 == 0 ? 60 : 4));
    const auto labels = labels_of(counts);
    // Windows of 1: the schedule itself, from where this epoch begins in it.
    StratifiedSampler sampler(labels, 1, 0, StratifiedSamplerOptions().window(1));
    sampler.set_epoch(trial);
    const auto order = sampler.indices();
    ASSERT_EQ(sorted(order), numbers(static_cast<std::int64_t>(labels.size())));
    std::vector<std::size_t> classes;
    for (const auto index : order) {
      classes.push_back(
          static_cast<std::size_t>((labels[static_cast<std::size_t>(index)] + 3) / 7));
    }
    double smallest = largest_lag(classes, counts, 0);
    ASSERT_LT(smallest, 2);
    for (std::size_t start = 1; start < order.size() && smallest >= 1; ++start) {
      smallest = std::min(smallest, largest_lag(classes, counts, start));
    }
    ASSERT_LT(smallest, 1) << "trial " << trial;
  }
}

// A schedule that was one for all epochs would have the rarest class where the last batch is
// dropped.
TEST(StratifiedSampler, DroppingTheLastBatchDropsNoClassForGood) {
  constexpr std::size_t kBatch = 64;
  constexpr int kEpochs = 100;
  const auto labels = labels_of({1000, 1, 1, 1});
  for (const int world : {1, 2}) {
    std::map<std::int64_t, int> seen;
    std::size_t taken = 0;
    for (int rank = 0; rank < world; ++rank) {
      StratifiedSampler sampler(labels, world, rank,
                                StratifiedSamplerOptions().window(kBatch).seed(3));
      for (int epoch = 0; epoch < kEpochs; ++epoch) {
        sampler.set_epoch(epoch);
        const auto full = sampler.size() / kBatch * kBatch;
        taken += full;
        for (std::size_t i = 0; i < full; ++i) {
          ++seen[labels[static_cast<std::size_t>(sampler.index(i))]];
        }
      }
    }
    const double share = static_cast<double>(taken) / (kEpochs * 1003.0);
    const double sigma = std::sqrt(kEpochs * share * (1 - share));
    for (const std::int64_t label : {4, 11, 18}) {
      EXPECT_NEAR(seen[label], kEpochs * share, 4 * sigma) << "world " << world;
    }
  }
}

TEST(StratifiedSampler, BalancedGivesRareClassesMoreOften) {
  const auto labels = labels_of({80, 15, 5});
  const StratifiedSampler sampler(
      labels, 1, 0,
      StratifiedSamplerOptions().window(30).balance(ClassBalance::Balanced).num_samples(600));
  const auto order = sampler.indices();
  ASSERT_EQ(order.size(), 600U);
  std::map<std::int64_t, int> of_sample;
  for (std::size_t window = 0; window < 20; ++window) {
    std::map<std::int64_t, int> seen;
    for (std::size_t i = 0; i < 30; ++i) {
      const auto index = order[window * 30 + i];
      ++seen[labels[static_cast<std::size_t>(index)]];
      ++of_sample[index];
    }
    EXPECT_EQ(seen, (std::map<std::int64_t, int>{{-3, 10}, {4, 10}, {11, 10}}));
  }
  // 200 draws of each class: all its samples come equally often, to within one.
  for (const auto& [index, count] : of_sample) {
    const auto label = labels[static_cast<std::size_t>(index)];
    const int size = label == -3 ? 80 : label == 4 ? 15 : 5;
    EXPECT_TRUE(count == 200 / size || count == (200 + size - 1) / size) << index << ' ' << count;
  }
}

// Two classes, two ranks: a schedule that was not mixed would give each rank one class.
TEST(StratifiedSampler, RanksSeeAllClasses) {
  const auto labels = labels_of({200, 200});
  for (int rank = 0; rank < 2; ++rank) {
    const StratifiedSampler sampler(labels, 2, rank, StratifiedSamplerOptions().window(16));
    std::vector<std::size_t> seen(2, 0);
    for (const auto index : sampler.indices()) {
      ++seen[labels[static_cast<std::size_t>(index)] == 4 ? 1 : 0];
    }
    EXPECT_LT(chi_square_sigmas(seen), 5);
  }
}

TEST(BatchSampler, CutsAnySampler) {
  BatchSampler batches(SequentialSampler(10), 4);
  EXPECT_EQ(batches.batches(), (std::vector<Indices>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  EXPECT_EQ(BatchSampler(SequentialSampler(10), 4, true).batches(),
            (std::vector<Indices>{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(BatchSampler(SequentialSampler(8), 4).size(), 2U);
  EXPECT_EQ(batches.global_position(2), 8U);
  EXPECT_EQ(batches.global_position(3), 10U);
  batches.start_at(8);
  EXPECT_EQ(batches.batches(), (std::vector<Indices>{{8, 9}}));
  batches.set_epoch(1);
  EXPECT_EQ(batches.size(), 3U);
  BatchSampler random(RandomSampler(9, 2, 1), 2);
  Indices all;
  for (const auto& batch : random.batches()) all.insert(all.end(), batch.begin(), batch.end());
  EXPECT_EQ(all, RandomSampler(9, 2, 1).indices());
  const auto most = std::numeric_limits<std::size_t>::max();
  EXPECT_EQ(BatchSampler(SequentialSampler(3), most).batches(), (std::vector<Indices>{{0, 1, 2}}));
  EXPECT_EQ(batches.global_position(most), 10U);
  EXPECT_EQ(batches.largest_batch(), 4U);
  EXPECT_EQ(BatchSampler(SequentialSampler(3), most).largest_batch(), 3U);
  // Ranks of an uneven end agree on where they are.
  const auto shared = [](int rank) { return BatchSampler(SequentialSampler(7, 2, rank), 2); };
  for (std::size_t count = 0; count < 4; ++count) {
    EXPECT_EQ(shared(0).global_position(count), std::min<std::size_t>(7, 4 * count));
    EXPECT_EQ(shared(1).global_position(count), shared(0).global_position(count));
  }
  fails([] { BatchSampler(SequentialSampler(3), 0); }, "batch_size is 0");
  fails([&] { static_cast<void>(batches.batch(3)); }, "batch 3 is not below the size 3");
}

Indices some_lengths(std::size_t count) {
  std::mt19937 random(2);
  Indices lengths(count);
  for (auto& length : lengths) length = static_cast<std::int64_t>(random() % 200);
  return lengths;
}

TEST(LengthBucketSampler, BatchesHoldSimilarLengthsAndEverySampleOnce) {
  const auto lengths = some_lengths(1000);
  const auto options = LengthBucketSamplerOptions().batch_size(16).pool_batches(10);
  LengthBucketSampler sampler(lengths, 1, 0, options);
  std::vector<Indices> last;
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    sampler.set_epoch(epoch);
    const auto batches = sampler.batches();
    EXPECT_NE(batches, last);
    last = batches;
    Indices all;
    std::int64_t padding = 0;
    std::size_t longer_than_last = 0;
    std::int64_t last_longest = 0;
    for (const auto& batch : batches) {
      EXPECT_LE(batch.size(), 16U);
      all.insert(all.end(), batch.begin(), batch.end());
      std::int64_t longest = 0;
      for (const auto i : batch) longest = std::max(longest, lengths[static_cast<std::size_t>(i)]);
      for (const auto i : batch) padding += longest - lengths[static_cast<std::size_t>(i)];
      longer_than_last += longest > last_longest ? 1U : 0U;
      last_longest = longest;
    }
    EXPECT_EQ(sorted(all), numbers(1000));
    // Of uniform lengths below 200, batches at random would be padded by some 88 a sample.
    EXPECT_LT(padding, 1000 * 15);
    EXPECT_GT(longer_than_last, batches.size() / 4) << "batches come by length";
    EXPECT_LT(longer_than_last, batches.size() * 3 / 4) << "batches come by length";
  }
  LengthBucketSampler fixed(lengths, 1, 0, LengthBucketSamplerOptions(options).shuffle(false));
  const auto before = fixed.batches();
  fixed.set_epoch(1);
  EXPECT_EQ(fixed.batches(), before);
}

TEST(LengthBucketSampler, PaddedBatchesStayWithinTheLimit) {
  const auto lengths = some_lengths(500);
  LengthBucketSampler sampler(lengths, 1, 0,
                              LengthBucketSamplerOptions().batch_size(64).max_elements(1000));
  Indices all;
  for (const auto& batch : sampler.batches()) {
    std::int64_t longest = 0;
    for (const auto i : batch) longest = std::max(longest, lengths[static_cast<std::size_t>(i)]);
    EXPECT_LE(longest * static_cast<std::int64_t>(batch.size()), 1000);
    EXPECT_LE(batch.size(), 64U);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  EXPECT_EQ(sorted(all), numbers(500));
}

TEST(LengthBucketSampler, WorldsShareTheBatches) {
  const auto lengths = some_lengths(330);
  const auto options = LengthBucketSamplerOptions().batch_size(10).pool_batches(4).seed(3);
  const auto alone = LengthBucketSampler(lengths, 1, 0, options).batches();
  ASSERT_EQ(alone.size(), 33U);
  for (const auto remainder : {Remainder::Pad, Remainder::Drop, Remainder::Exact}) {
    for (int world = 2; world <= 4; ++world) {
      std::vector<int> seen(33, 0);
      for (int rank = 0; rank < world; ++rank) {
        LengthBucketSampler sampler(lengths, world, rank,
                                    LengthBucketSamplerOptions(options).remainder(remainder));
        sampler.start_at(5);
        const auto width = static_cast<std::size_t>(world);
        for (std::size_t i = 0; i < sampler.size(); ++i) {
          const auto place = (5 + static_cast<std::size_t>(rank) + i * width) % 33;
          EXPECT_EQ(sampler.batch(i), alone[place]);
          ++seen[place];
        }
        EXPECT_EQ(sampler.global_position(2), 5 + 2 * width);
        // What no rank has been given is left for another world.
        EXPECT_EQ(sampler.global_position(1000),
                  remainder == Remainder::Drop ? 5 + 28 / width * width : 33U);
      }
      const auto once = std::count(seen.begin() + 5, seen.end(), 1);
      const int left_over = 28 % world;
      EXPECT_EQ(once, remainder == Remainder::Drop ? 28 - left_over : 28);
      const auto padded = std::count(seen.begin(), seen.begin() + 5, 1);
      EXPECT_EQ(padded, remainder == Remainder::Pad && left_over > 0 ? world - left_over : 0);
    }
  }
}

TEST(Samplers, RefuseAbsurdArguments) {
  const double infinity = std::numeric_limits<double>::infinity();
  fails([] { SequentialSampler(0); }, "SequentialSampler: dataset_size is 0");
  fails([] { SequentialSampler(5, 0); }, "world_size is 0; it must be at least 1");
  fails([] { SequentialSampler(5, 2, 2); }, "rank is 2; it must be from 0 to 1");
  fails([] { SequentialSampler(5, -1, -1); }, "world_size is -1");
  fails([] { RandomSampler(0); }, "RandomSampler: dataset_size is 0");
  fails([] { RandomSampler(std::numeric_limits<std::size_t>::max()); }, "it must be from 1 to");
  fails([] { RandomSampler(3, 1, 0, RandomSamplerOptions().num_samples(1ULL << 63)); },
        "num_samples is 9223372036854775808");
  fails([] { WeightedRandomSampler({}); }, "dataset_size is 0");
  fails([] { WeightedRandomSampler({1, -2}); }, "weights[1] is -2");
  fails([] { WeightedRandomSampler({std::nan(""), 2}); }, "weights[0] is nan");
  fails([=] { WeightedRandomSampler({1, infinity}); }, "weights[1] is inf");
  fails([] { WeightedRandomSampler({0, 0}); }, "all 2 weights are 0");
  fails(
      [] {
        WeightedRandomSampler({0, 1, 2}, 1, 0,
                              WeightedRandomSamplerOptions().replacement(false).num_samples(3));
      },
      "num_samples is 3 without replacement, but only 2 weights");
  fails([] { SubsetSampler({}, 5); }, "SubsetSampler: num_samples is 0");
  fails([] { SubsetSampler({1, 5}, 5); }, "indices[1] is 5; it must be from 0 to 4");
  fails([] { SubsetSampler({-1}, 5); }, "indices[0] is -1");
  fails([] { StratifiedSampler({1, 2}); }, "window is 0; it must be at least 1");
  fails([] { StratifiedSampler({}, 1, 0, StratifiedSamplerOptions().window(2)); },
        "dataset_size is 0");
  fails([] { StratifiedSampler({1}, 1, 0, StratifiedSamplerOptions().window(2).num_samples(5)); },
        "num_samples is 5; with Proportional it must be 0");
  const auto balanced = StratifiedSamplerOptions().window(1).balance(ClassBalance::Balanced);
  fails(
      [&] {
        StratifiedSampler({1}, 1, 0, StratifiedSamplerOptions(balanced).num_samples(1ULL << 61));
      },
      "num_samples is 2305843009213693952; it must be at most");
  // The largest one still draws to its end.
  const StratifiedSampler large({1, 2, 2}, 1, 0,
                                StratifiedSamplerOptions(balanced).num_samples(1ULL << 60));
  EXPECT_LT(large.index((1ULL << 60) - 1), 3);
  const auto buckets = [](const Indices& lengths, int world, int rank,
                          const LengthBucketSamplerOptions& options) {
    return [=] { LengthBucketSampler(lengths, world, rank, options); };
  };
  const auto plain = LengthBucketSamplerOptions().batch_size(2);
  fails(buckets({}, 1, 0, plain), "no lengths are given");
  fails(buckets({1}, 0, 0, plain), "world_size is 0");
  fails(buckets({1}, 2, 2, plain), "rank is 2");
  fails(buckets({1}, 1, 0, {}), "batch_size is 0");
  fails(buckets({1}, 1, 0, LengthBucketSamplerOptions(plain).pool_batches(0)), "pool_batches is 0");
  fails(buckets({1}, 1, 0, LengthBucketSamplerOptions(plain).max_elements(-1)),
        "max_elements is -1");
  fails(buckets({1, 9}, 1, 0, LengthBucketSamplerOptions(plain).max_elements(8)),
        "lengths[1] is 9; it must be from 0 to 8");
  fails(buckets({1, -9}, 1, 0, plain), "lengths[1] is -9");
  LengthBucketSampler sampler({1, 2, 3}, 1, 0, plain);
  fails([&] { static_cast<void>(sampler.batch(2)); }, "batch 2 is not below the size 2");
  fails([&] { sampler.start_at(3); }, "cannot start at position 3; the order of an epoch has 2");
  fails([&] { sampler.set_epoch(-1); }, "epoch is -1");
}

TEST(Samplers, FingerprintsTellOrdersApart) {
  const std::vector<std::uint64_t> prints{
      SequentialSampler(6).fingerprint(),
      RandomSampler(6).fingerprint(),
      RandomSampler(7).fingerprint(),
      RandomSampler(6, 1, 0, RandomSamplerOptions().num_samples(5)).fingerprint(),
      RandomSampler(6, 1, 0, RandomSamplerOptions().replacement(true)).fingerprint(),
      WeightedRandomSampler({1, 2}).fingerprint(),
      WeightedRandomSampler({2, 1}).fingerprint(),
      SubsetSampler({1, 2}, 6).fingerprint(),
      SubsetSampler({2, 1}, 6).fingerprint(),
      StratifiedSampler({1, 2}, 1, 0, StratifiedSamplerOptions().window(1)).fingerprint(),
      StratifiedSampler({1, 2}, 1, 0, StratifiedSamplerOptions().window(2)).fingerprint(),
      LengthBucketSampler({1, 2}, 1, 0, LengthBucketSamplerOptions().batch_size(1)).fingerprint(),
      LengthBucketSampler({1, 2}, 1, 0, LengthBucketSamplerOptions().batch_size(2)).fingerprint()};
  EXPECT_EQ(std::set<std::uint64_t>(prints.begin(), prints.end()).size(), prints.size());
  EXPECT_EQ(RandomSampler(6, 3, 2, RandomSamplerOptions().seed(9)).fingerprint(), prints[1]);
}

TEST(Samplers, WorkInALoader) {
  DataLoader loader(Numbers{},
                    SubsetSampler({5, 3, 11}, 20, 1, 0, SubsetSamplerOptions().shuffle(false)),
                    options_with(0, 2));
  Indices targets;
  for (auto& batch : loader) {
    for (std::int64_t i = 0; i < batch.target.size(0); ++i) {
      targets.push_back(batch.target[i].item<std::int64_t>());
    }
  }
  EXPECT_EQ(targets, (Indices{5, 3, 11}));
}

}  // namespace
}  // namespace lockstep::data
