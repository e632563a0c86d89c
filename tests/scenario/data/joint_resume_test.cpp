// SPDX-License-Identifier: BSD-3-Clause
// Each sampler in a loader, broken off within an epoch and continued twice, each time with other
// workers and in a world of another size: every sample of the epoch comes once, with its own bits.
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/samplers/batch_sampler.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>
#include <lockstep/data/samplers/random_sampler.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/stratified_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>

#include <algorithm>
#include <array>

#include "scenario/data/joint_test_support.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kSamples = 61;
constexpr std::uint64_t kSeed = 6;
constexpr std::int64_t kEpoch = 3;

using Indices = std::vector<std::int64_t>;

Indices numbers(std::int64_t (*formula)(std::int64_t)) {
  Indices result(kSamples);
  for (std::size_t i = 0; i < kSamples; ++i) result[i] = formula(static_cast<std::int64_t>(i));
  return result;
}

// One type a sampler: how it is made for a rank. All give every sample to one rank.
struct Sequential {
  static auto make(int world, int rank) {
    return SequentialSampler(kSamples, world, rank, Remainder::Exact);
  }
};
template <ShuffleOrder order>
struct Distributed {
  static auto make(int world, int rank) {
    return DistributedSampler(
        kSamples, world, rank,
        DistributedSamplerOptions().seed(kSeed).order(order).remainder(Remainder::Exact));
  }
};
template <bool replacement>
struct Random {
  static auto make(int world, int rank) {
    return RandomSampler(kSamples, world, rank,
                         RandomSamplerOptions()
                             .replacement(replacement)
                             .num_samples(70)
                             .seed(kSeed)
                             .remainder(Remainder::Exact));
  }
};
template <bool replacement>
struct Weighted {
  static auto make(int world, int rank) {
    std::vector<double> weights(kSamples);
    for (std::size_t i = 0; i < kSamples; ++i) weights[i] = static_cast<double>(i % 7 + 1);
    return WeightedRandomSampler(weights, world, rank,
                                 WeightedRandomSamplerOptions()
                                     .replacement(replacement)
                                     .seed(kSeed)
                                     .remainder(Remainder::Exact));
  }
};
struct Subset {
  static auto make(int world, int rank) {
    Indices chosen;
    for (std::int64_t i = 0; i < 60; ++i) {
      if (i % 5 != 2) chosen.push_back(i);
    }
    return SubsetSampler(chosen, kSamples, world, rank,
                         SubsetSamplerOptions().seed(kSeed).remainder(Remainder::Exact));
  }
};
template <ClassBalance balance>
struct Stratified {
  static auto make(int world, int rank) {
    return StratifiedSampler(
        numbers([](std::int64_t i) { return i * i % 5; }), world, rank,
        StratifiedSamplerOptions().window(8).balance(balance).seed(kSeed).remainder(
            Remainder::Exact));
  }
};
template <class Inner>
struct Batched {
  static auto make(int world, int rank) { return BatchSampler(Inner::make(world, rank), 4); }
};
struct LengthBuckets {
  static auto make(int world, int rank) {
    return LengthBucketSampler(numbers([](std::int64_t i) { return i * 37 % 50; }), world, rank,
                               LengthBucketSamplerOptions()
                                   .batch_size(4)
                                   .max_elements(120)
                                   .pool_batches(4)
                                   .seed(kSeed)
                                   .remainder(Remainder::Exact));
  }
};

// A part of the epoch: so many batches on each rank; the last one goes to the end.
struct Leg {
  int world;
  std::int64_t workers;
  WorkerKind kind;
  std::size_t batches;
};
constexpr std::size_t kToTheEnd = SIZE_MAX;
using Plan = std::array<Leg, 3>;
constexpr std::array<Plan, 3> kPlans{{
    {{{2, 2, WorkerKind::Process, 2},
      {3, 0, WorkerKind::Process, 1},
      {1, 3, WorkerKind::Process, kToTheEnd}}},
    {{{1, 0, WorkerKind::Process, 3},
      {4, 2, WorkerKind::Thread, 1},
      {2, 1, WorkerKind::Process, kToTheEnd}}},
    {{{3, 1, WorkerKind::Process, 1},
      {1, 3, WorkerKind::Thread, 2},
      {4, 0, WorkerKind::Process, kToTheEnd}}},
}};

template <class Make>
class JointResume : public NothingLeftBehind {
 protected:
  static auto loader(const Leg& leg, int rank) {
    auto sampler = Make::make(leg.world, rank);
    constexpr std::int64_t kBatch = GivesBatches<decltype(sampler)> ? 1 : 4;  // which are of 4
    return DataLoader(Drawn{kSamples}, std::move(sampler),
                      options_with(leg.workers, kBatch).kind(leg.kind).seed(kSeed));
  }

  // The samples of one leg, rank by rank; `state` becomes what all ranks say at its end that have
  // received as many batches as the first, which has the most.
  static std::vector<SampleBytes> run(const Leg& leg, std::optional<LoaderState>& state) {
    const auto start = state;
    std::vector<SampleBytes> samples;
    std::size_t most_batches = 0;
    for (int rank = 0; rank < leg.world; ++rank) {
      auto mine = loader(leg, rank);
      if (start) mine.load_state(*start);
      mine.set_epoch(kEpoch);
      std::size_t batches = 0;
      for (auto& batch : mine) {
        for (auto& bytes : bytes_of_batch(batch)) samples.push_back(std::move(bytes));
        if (++batches == leg.batches) break;
      }
      const auto text = mine.state().to_bytes();
      EXPECT_LE(text.size(), LoaderState::kMaxBytes);
      if (rank == 0) {
        state = LoaderState::from_bytes(text);
        most_batches = batches;
      }
      if (batches == most_batches) {
        EXPECT_EQ(text, state->to_bytes()) << "rank " << rank << " is somewhere else";
      }
      if (leg.batches == kToTheEnd) check_next_epoch(mine, leg, rank);
    }
    return samples;
  }

  // It begins at its beginning.
  template <class Loader>
  static void check_next_epoch(Loader& mine, const Leg& leg, int rank) {
    auto fresh = loader({leg.world, 0, WorkerKind::Process, 0}, rank);
    mine.set_epoch(kEpoch + 1);
    fresh.set_epoch(kEpoch + 1);
    EXPECT_EQ(mine.size(), fresh.size());
    EXPECT_EQ(bytes_of_batch(*mine.begin()), bytes_of_batch(*fresh.begin()));
  }

  // What the sampler itself gives one rank.
  static Indices whole_order() {
    auto sampler = Make::make(1, 0);
    sampler.set_epoch(kEpoch);
    if constexpr (requires { sampler.indices(); }) {
      return sampler.indices();
    } else {
      Indices order;
      for (const auto& batch : sampler.batches()) {
        order.insert(order.end(), batch.begin(), batch.end());
      }
      return order;
    }
  }
};

using Samplers =
    ::testing::Types<Sequential, Distributed<ShuffleOrder::PyTorch>,
                     Distributed<ShuffleOrder::Keyed>, Random<false>, Random<true>, Weighted<false>,
                     Weighted<true>, Subset, Stratified<ClassBalance::Proportional>,
                     Stratified<ClassBalance::Balanced>, Batched<Random<false>>,
                     Batched<Distributed<ShuffleOrder::PyTorch>>, LengthBuckets>;
TYPED_TEST_SUITE(JointResume, Samplers);

TYPED_TEST(JointResume, LosesAndRepeatsNoSample) {
  auto expected = this->whole_order();
  std::sort(expected.begin(), expected.end());
  for (const auto& plan : kPlans) {
    std::optional<LoaderState> state;
    Indices seen;
    for (const auto& leg : plan) {
      const auto before = seen.size();
      for (const auto& bytes : this->run(leg, state)) {
        seen.push_back(index_of(bytes));
        ASSERT_EQ(bytes, bytes_of_sample(seen.back(), kSeed, kEpoch));
      }
      EXPECT_GT(seen.size(), before) << "a leg without a sample shows nothing";
      EXPECT_EQ(state->epoch, kEpoch);
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, expected) << "first in a world of " << plan[0].world;
  }
}

}  // namespace
}  // namespace lockstep::data
