// SPDX-License-Identifier: BSD-3-Clause
// What workers do when an epoch's batches are all given out: the next epoch's, if the guess is
// right, and nothing that the program notices if it is wrong.
#include <lockstep/data/samplers/sample_random.h>

#include <csignal>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kSamples = 22;

/// Says of each sample in which epoch it was fetched: the drawn number is that of one epoch only.
struct Drawn {
  SharedCounters* fetched = nullptr;
  std::size_t count = kSamples;

  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    if (fetched != nullptr) ++fetched->words[index];
    return {torch::full({1}, random.uniform(), torch::kDouble),
            torch::tensor(static_cast<int64_t>(index))};
  }
  std::size_t size() const { return count; }
};

DistributedSampler shuffled() {
  return DistributedSampler(kSamples, 1, 0, DistributedSamplerOptions().shuffle(true).seed(3));
}

using Batches = std::vector<std::pair<torch::Tensor, torch::Tensor>>;

template <class Loader>
Batches take(Loader& loader, std::size_t most = kSamples) {
  Batches batches;
  for (auto& batch : loader) {
    batches.emplace_back(batch.data.clone(), batch.target.clone());
    if (batches.size() == most) break;
  }
  return batches;
}

void expect_equal(const Batches& batches, const Batches& expected) {
  ASSERT_EQ(batches.size(), expected.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    EXPECT_TRUE(batches[i].first.equal(expected[i].first)) << "batch " << i;
    EXPECT_TRUE(batches[i].second.equal(expected[i].second)) << "batch " << i;
  }
}

int total(const SharedCounters& counters) {
  int sum = 0;
  for (std::size_t index = 0; index < kSamples; ++index) sum += counters.words[index];
  return sum;
}

TEST(NextEpochTest, IsBeingBuiltBeforeItIsAskedForAndOnlyOnce) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    SharedCounters fetched;
    // One worker has room for 2 + 3 batches.
    DataLoader loader(Drawn{&fetched}, shuffled(), options_with(1).kind(kind));
    ASSERT_EQ(take(loader).size(), 6U);
    const int ahead = 5 * 4;
    EXPECT_TRUE(eventually([&] { return total(fetched) >= static_cast<int>(kSamples) + ahead; }))
        << total(fetched);
    loader.set_epoch(1);
    const auto batches = take(loader);
    DataLoader here(Drawn{}, shuffled(), options_with(0));
    here.set_epoch(1);
    expect_equal(batches, take(here));
    EXPECT_TRUE(
        eventually([&] { return total(fetched) >= 2 * static_cast<int>(kSamples) + ahead; }));
    EXPECT_EQ(total(fetched), 2 * static_cast<int>(kSamples) + ahead);
  }
}

TEST(NextEpochTest, IsNotBuiltWhereThatIsNotWanted) {
  SharedCounters fetched;
  DataLoader loader(Drawn{&fetched}, shuffled(), options_with(1).prepare_next_epoch(false));
  ASSERT_EQ(take(loader).size(), 6U);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(total(fetched), static_cast<int>(kSamples));
}

TEST(NextEpochTest, IsTheSameAgainWhereTheProgramSetsNone) {
  SharedCounters fetched;
  DataLoader loader(Drawn{&fetched}, shuffled(), options_with(1));
  const auto first = take(loader);
  ASSERT_TRUE(eventually([&] { return total(fetched) >= 22 + 20; }));
  expect_equal(take(loader), first);  // epoch 1 was prepared for nothing, now it is epoch 0
  ASSERT_TRUE(eventually([&] { return total(fetched) >= 2 * (22 + 20); }));
  expect_equal(take(loader), first);
  ASSERT_TRUE(eventually([&] { return total(fetched) >= 3 * 22 + 2 * 20; }));
  EXPECT_EQ(total(fetched), 3 * 22 + 2 * 20);
}

// Programs that skip, repeat, go back, stop anywhere, and go on from a state.
TEST(NextEpochTest, WhateverTheProgramDoesItGetsWhatItAskedFor) {
  std::mt19937 random(11);
  const auto draw = [&](std::size_t below) { return random() % below; };
  for (int run = 0; run < 12; ++run) {
    const auto workers = static_cast<std::int64_t>(1 + draw(3));
    DataLoader loader(Drawn{}, shuffled(),
                      options_with(workers).prefetch_batches(static_cast<int>(1 + draw(3))));
    DataLoader here(Drawn{}, shuffled(), options_with(0));
    std::int64_t epoch = 0;
    for (int step = 0; step < 12; ++step) {
      SCOPED_TRACE("run " + std::to_string(run) + ", step " + std::to_string(step));
      switch (draw(5)) {
        case 0:
          epoch = static_cast<std::int64_t>(draw(4));
          break;
        case 1:
          break;
        default:
          ++epoch;
      }
      if (draw(4) == 0) {
        LoaderState state = loader.state();
        state.epoch = epoch;
        state.position = draw(kSamples);
        loader.load_state(state);
        here.load_state(state);
      } else {
        loader.set_epoch(epoch);
        here.set_epoch(epoch);
      }
      const auto most = draw(3) == 0 ? 1 + draw(6) : kSamples;
      expect_equal(take(loader, most), take(here, most));
      EXPECT_EQ(loader.state(), here.state());
    }
  }
}

TEST(NextEpochTest, WorkerThatDiesAtItIsReplaced) {
  SharedCounters seen;
  Numbers dataset{8};
  // Sample 5 is fetched in epoch 0, and kills the worker that comes to it for epoch 1.
  dataset.before = [&](std::size_t index) {
    if (index == 5 && ++seen.words[0] == 2) ::raise(SIGKILL);
  };
  DataLoader loader(dataset, in_order(8), options_with(2));
  for (int epoch = 0; epoch < 3; ++epoch) {
    loader.set_epoch(epoch);
    std::int64_t expected = 0;
    for (auto& batch : loader) {
      for (int row = 0; row < 4; ++row) EXPECT_EQ(batch.target[row].item<int64_t>(), expected++);
    }
    EXPECT_EQ(expected, 8);
  }
  EXPECT_EQ(loader.statistics().restarts, 1U);
}

/// Gives indices that do not exist in every epoch but the first.
class Broken {
 public:
  std::int64_t index(std::size_t position) const {
    return epoch() == 0 || position < 6 ? good_.index(position) : 1000;
  }
  std::size_t size() const { return good_.size(); }
  std::size_t dataset_size() const { return good_.dataset_size(); }
  std::int64_t epoch() const { return good_.epoch(); }
  std::uint64_t seed() const { return good_.seed(); }
  std::uint64_t fingerprint() const { return good_.fingerprint(); }
  std::uint64_t global_position(std::size_t consumed) const {
    return good_.global_position(consumed);
  }
  void set_epoch(std::int64_t epoch) { good_.set_epoch(epoch); }
  void start_at(std::uint64_t position) { good_.start_at(position); }

 private:
  DistributedSampler good_ = shuffled();
};
static_assert(ResumableSampler<Broken> && RandomAccessSampler<Broken>);

TEST(NextEpochTest, ErrorsOfItsOrderComeInItsOwnTime) {
  DataLoader loader(Drawn{}, Broken(), options_with(2));
  EXPECT_EQ(take(loader).size(), 6U);
  loader.set_epoch(1);
  EXPECT_NE(message_of([&] { take(loader); }).find("the sampler gave the index 1000"),
            std::string::npos);
  loader.set_epoch(0);
  EXPECT_EQ(take(loader).size(), 6U);
}

}  // namespace
}  // namespace lockstep::data
