// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/loader_state.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using LoaderResumeTest = NothingLeftBehind;

// Position p of epoch e is sample (7 p + e) mod 60; ranks take every world-th position.
class Turning {
 public:
  Turning(std::uint64_t world, std::uint64_t rank) : world_(world), rank_(rank) {}

  std::size_t size() const {
    return static_cast<std::size_t>((60 - start_ - rank_ + world_ - 1) / world_);
  }
  std::size_t epoch_size() const {
    return static_cast<std::size_t>((60 - rank_ + world_ - 1) / world_);
  }
  std::size_t dataset_size() const { return 60; }
  std::int64_t index(std::size_t position) const {
    const auto global = start_ + rank_ + position * world_;
    return static_cast<std::int64_t>((7 * global + static_cast<std::uint64_t>(epoch_)) % 60);
  }
  void set_epoch(std::int64_t epoch) {
    if (epoch != epoch_) start_ = 0;
    epoch_ = epoch;
  }
  std::int64_t epoch() const { return epoch_; }
  void start_at(std::uint64_t position) { start_ = position; }
  std::uint64_t global_position(std::size_t local) const {
    return std::min<std::uint64_t>(60, start_ + local * world_);
  }
  std::uint64_t seed() const { return 5; }
  std::uint64_t fingerprint() const { return 99; }

 private:
  std::uint64_t world_;
  std::uint64_t rank_;
  std::uint64_t start_ = 0;
  std::int64_t epoch_ = 0;
};

// Its next size() throws when a test says so.
class Reluctant : public Turning {
 public:
  Reluctant() : Turning(1, 0) {}

  std::size_t size() const {
    if (std::exchange(*refuses, false)) throw std::runtime_error("not yet");
    return Turning::size();
  }

  std::shared_ptr<bool> refuses = std::make_shared<bool>(false);
};

std::vector<std::int64_t> row_targets(const torch::data::Example<>& batch) {
  const auto* first = batch.target.data_ptr<std::int64_t>();
  return {first, first + batch.target.size(0)};
}

TEST_F(LoaderResumeTest, StateOutlivesABeginThatThrows) {
  for (const int workers : {0, 2}) {
    Reluctant sampler;
    DataLoader loader(Numbers{60}, sampler, options_with(workers, 5));
    LoaderState state;
    state.seed = sampler.seed();
    state.epoch = 4;
    state.position = 15;
    state.dataset_size = 60;
    state.fingerprint = loader.state().fingerprint;
    loader.load_state(state);
    *sampler.refuses = true;
    EXPECT_THROW(static_cast<void>(loader.begin()), std::runtime_error);
    EXPECT_EQ(row_targets(*loader.begin()).front(), sampler.index(15) + 4) << workers;
    // The pass after it begins where an epoch does.
    EXPECT_EQ(row_targets(*loader.begin()).front(), sampler.index(0) + 4) << workers;
  }
}

TEST_F(LoaderResumeTest, GoesOnWithAnotherWorldAndOtherWorkers) {
  // Two ranks receive three batches each, in epoch 4.
  std::vector<std::int64_t> seen;
  std::vector<LoaderState> states;
  for (const int rank : {0, 1}) {
    DataLoader loader(Numbers{60}, Turning(2, static_cast<std::uint64_t>(rank)),
                      options_with(2, 5));
    loader.set_epoch(4);
    EXPECT_EQ(loader.state().position, 0U);
    int batches = 0;
    for (auto& batch : loader) {
      for (const auto target : row_targets(batch)) seen.push_back(target);
      if (++batches == 3) break;
    }
    states.push_back(loader.state());
  }
  EXPECT_EQ(states[0].to_bytes(), states[1].to_bytes());
  EXPECT_EQ(states[0].position, 30U);
  EXPECT_EQ(states[0].epoch, 4);
  EXPECT_LE(states[0].to_bytes().size(), 128U);
  // Three ranks go on.
  const auto state = LoaderState::from_bytes(states[0].to_bytes());
  for (const int rank : {0, 1, 2}) {
    DataLoader loader(Numbers{60}, Turning(3, static_cast<std::uint64_t>(rank)),
                      options_with(rank, 5));
    loader.load_state(state);
    loader.set_epoch(4);  // as a loop over epochs does
    EXPECT_EQ(loader.size(), 2U);
    EXPECT_EQ(loader.state().position, 30U);
    for (auto& batch : loader) {
      for (const auto target : row_targets(batch)) seen.push_back(target);
    }
    EXPECT_EQ(loader.state().position, 60U);
    // The same epoch again, and the next: from the beginning.
    for (const int epoch : {4, 5}) {
      loader.set_epoch(epoch);
      EXPECT_EQ(loader.begin()->target[0].item<std::int64_t>(), 7 * rank + epoch);
    }
  }
  std::sort(seen.begin(), seen.end());
  std::vector<std::int64_t> all(60);
  for (std::int64_t i = 0; i < 60; ++i) all[static_cast<std::size_t>(i)] = i;
  EXPECT_EQ(seen, all);
}

TEST_F(LoaderResumeTest, CountsWhatTheProgramHasAndLostBatchesToo) {
  Numbers dataset{60};
  dataset.before = [](std::size_t index) { TORCH_CHECK(index != 35, "bad"); };  // position 5
  for (const int workers : {0, 3}) {
    DataLoader loader(dataset, Turning(1, 0), options_with(workers, 4));
    auto it = loader.begin();
    EXPECT_EQ(loader.state().position, 0U);
    static_cast<void>(*it);
    EXPECT_EQ(loader.state().position, 4U);
    ++it;
    EXPECT_THROW(static_cast<void>(*it), WorkerError);
    EXPECT_EQ(loader.state().position, 8U);
    static_cast<void>(*it);
    EXPECT_EQ(loader.state().position, 12U);
  }
}

// Batches of 4, of which the position counts the samples.
class TurningInFours {
 public:
  std::size_t size() const { return sampler_.size() / 4; }
  std::size_t largest_batch() const { return 4; }
  std::size_t dataset_size() const { return 60; }
  std::vector<std::int64_t> batch(std::size_t number) const {
    std::vector<std::int64_t> items;
    for (std::size_t i = 0; i < 4; ++i) items.push_back(sampler_.index(4 * number + i));
    return items;
  }
  void set_epoch(std::int64_t epoch) { sampler_.set_epoch(epoch); }
  std::int64_t epoch() const { return sampler_.epoch(); }
  void start_at(std::uint64_t position) { sampler_.start_at(position); }
  std::uint64_t global_position(std::size_t batches) const {
    return sampler_.global_position(4 * batches);
  }
  std::uint64_t seed() const { return 5; }
  std::uint64_t fingerprint() const { return 98; }

 private:
  Turning sampler_{1, 0};
};

TEST_F(LoaderResumeTest, SamplersOfBatchesCountBatches) {
  LoaderState state;
  {
    DataLoader loader(Numbers{60}, TurningInFours{}, options_with(2, 1));
    auto it = loader.begin();
    for (int i = 0; i < 3; ++i) ++it;
    state = loader.state();
    EXPECT_EQ(state.position, 12U);
  }
  DataLoader loader(Numbers{60}, TurningInFours{}, options_with(1, 1));
  loader.load_state(state);
  EXPECT_EQ(loader.begin()->target[0].item<std::int64_t>(), 7 * 12 % 60);
  EXPECT_EQ(loader.begin()->target[0].item<std::int64_t>(), 0);
}

TEST_F(LoaderResumeTest, StatesOfOthersAreRefused) {
  DataLoader loader(Numbers{60}, Turning(1, 0), options_with(0));
  const auto message = [&](auto change) {
    auto state = loader.state();
    change(state);
    return message_of([&] { loader.load_state(state); });
  };
  EXPECT_NE(message([](auto& s) { s.dataset_size = 61; }).find("61 samples"), std::string::npos);
  EXPECT_NE(message([](auto& s) { s.seed = 6; }).find("the seed 6"), std::string::npos);
  EXPECT_NE(message([](auto& s) { s.fingerprint = 1; }).find("other options"), std::string::npos);
  EXPECT_NE(message([](auto& s) { s.fingerprint = 1; }).find("window"), std::string::npos);
  DataLoader other_draws(Numbers{60}, Turning(1, 0), options_with(0).seed(8));
  EXPECT_NE(message([&](auto& s) { s = other_draws.state(); }).find("DataLoaderOptions::seed"),
            std::string::npos);
  EXPECT_THROW(static_cast<void>(LoaderState::from_bytes("nonsense")), c10::Error);
  DataLoader unordered(Numbers{60}, Turning(1, 0), options_with(0).in_order(false));
  EXPECT_NE(message_of([&] { static_cast<void>(unordered.state()); }).find("in_order"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
