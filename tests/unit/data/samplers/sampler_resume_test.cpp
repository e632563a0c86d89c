// SPDX-License-Identifier: BSD-3-Clause
// An epoch that is broken off on one world and continued on others: which samples come how often.
#include <gtest/gtest.h>
#include <lockstep/data/samplers/distributed_sampler.h>
#include <lockstep/data/samplers/random_sampler.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/stratified_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace lockstep::data {
namespace {

using Indices = std::vector<std::int64_t>;
using Make = std::function<std::unique_ptr<EpochSampler>(int world, int rank, Remainder remainder)>;

constexpr std::int64_t kEpoch = 3;

struct Leg {
  Indices order;  // as the ranks consumed it: step by step, rank by rank
  std::uint64_t position = 0;
};

// `steps` samples on each rank that has so many, from `start` on.
Leg run(const Make& make, int world, Remainder remainder, std::uint64_t start, std::size_t steps) {
  Leg leg;
  std::vector<std::unique_ptr<EpochSampler>> ranks;
  for (int rank = 0; rank < world; ++rank) {
    ranks.push_back(make(world, rank, remainder));
    ranks.back()->set_epoch(kEpoch);
    ranks.back()->start_at(start);
    EXPECT_EQ(ranks.back()->start(), start);
  }
  leg.position = start;
  for (std::size_t step = 0; step < steps; ++step) {
    for (const auto& rank : ranks) {
      if (step < rank->size()) leg.order.push_back(rank->index(step));
    }
  }
  leg.position = ranks[0]->global_position(steps);
  for (const auto& rank : ranks) EXPECT_EQ(rank->global_position(steps), leg.position);
  return leg;
}

std::size_t longest_share(const Make& make, int world, Remainder remainder, std::uint64_t start) {
  auto sampler = make(world, 0, remainder);
  sampler->set_epoch(kEpoch);
  sampler->start_at(start);
  return sampler->size();
}

void check_resumes(const Make& make) {
  auto whole = make(1, 0, Remainder::Exact);
  whole->set_epoch(kEpoch);
  const auto order = whole->indices();
  for (const auto remainder : {Remainder::Exact, Remainder::Drop, Remainder::Pad}) {
    for (int first = 1; first <= 6; ++first) {
      const auto most = longest_share(make, first, remainder, 0);
      for (int second = 1; second <= 6; ++second) {
        for (const std::size_t steps : {std::size_t{0}, std::size_t{1}, most / 2, most}) {
          const auto one = run(make, first, remainder, 0, steps);
          const auto left = longest_share(make, second, remainder, one.position);
          const auto two = run(make, second, remainder, one.position, left / 2);
          const int third = 1 + (first + second) % 6;
          const auto three = run(make, third, remainder, two.position,
                                 longest_share(make, third, remainder, two.position));
          // Padding can only stand at the end of a leg that went to the end.
          Indices joined = one.order;
          joined.resize(std::min<std::size_t>(joined.size(), one.position));
          joined.insert(joined.end(), two.order.begin(), two.order.end());
          joined.resize(std::min<std::size_t>(joined.size(), two.position));
          joined.insert(joined.end(), three.order.begin(), three.order.end());
          const auto common = std::min(joined.size(), order.size());
          ASSERT_TRUE(std::equal(
              joined.begin(), joined.begin() + static_cast<std::ptrdiff_t>(common), order.begin()))
              << "worlds " << first << ' ' << second << ' ' << third << " after " << steps;
          const auto lacking = order.size() - common;
          const auto extra = joined.size() - common;
          EXPECT_LT(lacking, remainder == Remainder::Drop ? static_cast<std::size_t>(third) : 1U);
          EXPECT_LT(extra, remainder == Remainder::Pad ? static_cast<std::size_t>(third) : 1U);
        }
      }
    }
  }
}

TEST(Resume, DistributedSamplerInBothOrders) {
  for (const std::size_t size : {1U, 5U, 47U, 60U}) {
    for (const auto shuffle_order : {ShuffleOrder::PyTorch, ShuffleOrder::Keyed}) {
      check_resumes([=](int world, int rank, Remainder remainder) {
        return std::make_unique<DistributedSampler>(
            size, world, rank,
            DistributedSamplerOptions().seed(5).order(shuffle_order).remainder(remainder));
      });
    }
  }
}

TEST(Resume, AllOtherSamplers) {
  check_resumes([](int world, int rank, Remainder remainder) {
    return std::make_unique<SequentialSampler>(31, world, rank, remainder);
  });
  for (const bool replacement : {false, true}) {
    check_resumes([=](int world, int rank, Remainder remainder) {
      return std::make_unique<RandomSampler>(
          31, world, rank,
          RandomSamplerOptions().replacement(replacement).num_samples(50).remainder(remainder));
    });
    check_resumes([=](int world, int rank, Remainder remainder) {
      std::vector<double> weights(37);
      std::iota(weights.begin(), weights.end(), 0.0);
      return std::make_unique<WeightedRandomSampler>(
          weights, world, rank,
          WeightedRandomSamplerOptions().replacement(replacement).remainder(remainder));
    });
  }
  check_resumes([](int world, int rank, Remainder remainder) {
    return std::make_unique<SubsetSampler>(Indices{9, 1, 4, 4, 3, 8, 40}, 50, world, rank,
                                           SubsetSamplerOptions().remainder(remainder));
  });
  for (const auto balance : {ClassBalance::Proportional, ClassBalance::Balanced}) {
    check_resumes([=](int world, int rank, Remainder remainder) {
      Indices labels(41);
      for (std::size_t i = 0; i < labels.size(); ++i)
        labels[i] = static_cast<std::int64_t>(i * i % 5);
      return std::make_unique<StratifiedSampler>(
          labels, world, rank,
          StratifiedSamplerOptions().window(6).balance(balance).remainder(remainder));
    });
  }
}

// Every sample exactly once, as a bitmap sees it, over worlds that change at random.
TEST(Resume, NoSampleIsLostOrRepeatedOverManyWorlds) {
  std::mt19937 random(12);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t size = 1 + random() % 400;
    const auto order = trial % 2 == 0 ? ShuffleOrder::Keyed : ShuffleOrder::PyTorch;
    std::vector<int> seen(size, 0);
    std::uint64_t position = 0;
    while (position < size) {
      const int world = 1 + static_cast<int>(random() % 6);
      const std::size_t steps = 1 + random() % 40;
      std::uint64_t next = 0;
      for (int rank = 0; rank < world; ++rank) {
        DistributedSampler sampler(size, world, rank,
                                   DistributedSamplerOptions()
                                       .seed(static_cast<std::uint64_t>(trial))
                                       .order(order)
                                       .remainder(Remainder::Exact));
        sampler.set_epoch(trial);
        sampler.start_at(position);
        for (std::size_t i = 0; i < std::min(steps, sampler.size()); ++i) {
          ++seen[static_cast<std::size_t>(sampler.index(i))];
        }
        next = sampler.global_position(steps);
      }
      position = next;
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<std::ptrdiff_t>(size));
  }
}

TEST(Resume, AnotherEpochStartsAtItsStart) {
  RandomSampler sampler(10, 2, 0);
  sampler.set_epoch(1);
  const auto whole = sampler.indices();
  sampler.start_at(4);
  EXPECT_EQ(sampler.size(), 3U);
  EXPECT_EQ(sampler.epoch_size(), 5U);
  EXPECT_EQ(sampler.indices(), Indices(whole.begin() + 2, whole.end()));
  sampler.set_epoch(1);
  EXPECT_EQ(sampler.size(), 3U) << "the same epoch again must not go back to its start";
  sampler.set_epoch(2);
  EXPECT_EQ(sampler.size(), 5U);
  sampler.set_epoch(1);
  EXPECT_EQ(sampler.indices(), whole);
  sampler.start_at(10);
  EXPECT_EQ(sampler.size(), 0U);
  EXPECT_TRUE(sampler.indices().empty());
  EXPECT_EQ(sampler.global_position(0), 10U);
  EXPECT_EQ(sampler.global_position(SIZE_MAX), 10U);
}

}  // namespace
}  // namespace lockstep::data
