// SPDX-License-Identifier: BSD-3-Clause
// What samples draw from LibTorch's functions, without a generator of their own.
#include <set>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using SampleDrawsTest = NothingLeftBehind;

constexpr std::size_t kDrawing = 256;

struct Draws {
  torch::data::Example<> get(std::size_t index) {
    auto data = torch::rand({3});
    // As many as the index says, so that a generator that goes on from sample to sample is noticed;
    // an odd number of normal ones leaves one behind in it.
    for (std::size_t i = 0; i < index % 3; ++i) data += torch::randn({1});
    return {data, torch::randint(1 << 30, {2})};
  }
  std::size_t size() const { return kDrawing; }
};

torch::Tensor all_of(auto& loader) {
  std::vector<torch::Tensor> all;
  for (auto& batch : loader) {
    all.push_back(torch::cat({batch.data.to(torch::kDouble), batch.target}, 1));
  }
  return torch::cat(all);
}

torch::Tensor epochs_of(const DataLoaderOptions& options) {
  DataLoader loader(Draws{}, DataLoaderOptions(options).shuffle(true));
  std::vector<torch::Tensor> epochs;
  for (const int epoch : {0, 1, 1}) {
    loader.set_epoch(epoch);
    epochs.push_back(all_of(loader));
  }
  return torch::stack(epochs);
}

TEST_F(SampleDrawsTest, AreTheSampleForAllKindsAndNumbersOfWorkers) {
  const auto expected = epochs_of(options_with(0, 10).seed(8));
  EXPECT_FALSE(torch::equal(expected[0], expected[1]));
  EXPECT_TRUE(torch::equal(expected[1], expected[2]));
  EXPECT_FALSE(torch::equal(epochs_of(options_with(0, 10).seed(9)), expected));
  const auto* values = expected.const_data_ptr<double>();
  std::set<double> different;
  for (std::size_t row = 0; row < 2 * kDrawing; ++row) different.insert(values[5 * row]);
  EXPECT_GE(different.size(), 2 * kDrawing - 2);  // of 2^24 that `rand` knows, one may come twice
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const int workers : {1, 2, 7}) {
      EXPECT_TRUE(torch::equal(epochs_of(options_with(workers, 10).seed(8).kind(kind)), expected))
          << workers;
    }
  }
}

// One after the other: a function that the loader does not know of would go on from where the
// program's generator stands.
struct EveryFunction {
  torch::Tensor get(std::size_t index) {
    const auto ones = torch::ones({4, 4});
    switch (index) {
      case 0:
        return torch::dropout(ones, 0.5, true);
      case 1:
        return torch::randperm(16).to(torch::kFloat).view({4, 4});
      case 2:
        return torch::normal(0, 1, {4, 4});
      case 3:
        return torch::multinomial(ones, 4).to(torch::kFloat);
      case 4:
        return torch::bernoulli(ones / 2);
      case 5:
        return torch::rand_like(ones);
      case 6:
        return torch::empty({4, 4}).exponential_();
      case 7:
        return torch::poisson(4 * ones);
      case 8:
        return torch::rrelu(-ones, 0.1, 0.9, true);
      case 9:
        return torch::randint_like(ones, 100);
      case 10:
        return torch::nn::init::xavier_uniform_(torch::empty({4, 4}));
      case 11:
        return torch::rand({4, 4}, at::detail::getDefaultCPUGenerator());
      default:
        return torch::_sample_dirichlet(ones);
    }
  }
  std::size_t size() const { return 13; }
};

TEST_F(SampleDrawsTest, AreTheSampleWithEveryFunction) {
  const auto samples_of = [](const DataLoaderOptions& options) {
    DataLoader loader(EveryFunction{}, options);
    std::vector<torch::Tensor> all;
    for (auto& batch : loader) all.push_back(batch.clone());
    return torch::cat(all);
  };
  const auto expected = samples_of(options_with(0, 1));
  static_cast<void>(torch::rand({100}));
  const auto again = samples_of(options_with(0, 5));
  for (int row = 0; row < 13; ++row) EXPECT_TRUE(torch::equal(again[row], expected[row])) << row;
  EXPECT_TRUE(torch::equal(samples_of(options_with(3, 2)), expected));
}

TEST_F(SampleDrawsTest, LeaveTheProgramsGeneratorAlone) {
  for (const auto& options : {options_with(0), options_with(2).kind(WorkerKind::Thread)}) {
    torch::manual_seed(5);
    const auto expected = torch::rand({8});
    torch::manual_seed(5);
    DataLoader loader(Draws{}, options);
    const auto first = loader.begin()->data.clone();
    EXPECT_EQ(torch::randn({0}).numel(), 0);
    EXPECT_TRUE(torch::equal(torch::rand({8}), expected));
    EXPECT_EQ(at::detail::getDefaultCPUGenerator().current_seed(), 5U);
    torch::manual_seed(6);  // is the program's, and no sample's
    DataLoader other(Draws{}, options);
    EXPECT_TRUE(torch::equal(other.begin()->data, first));
  }
}

// The same crop for an image and its mask, say.
struct SeedsItself {
  torch::data::Example<> get(std::size_t index) {
    torch::manual_seed(index / 2);
    const auto data = torch::rand({4});
    torch::manual_seed(index / 2);
    return {data, torch::rand({4})};
  }
  std::size_t size() const { return 20; }
};

TEST_F(SampleDrawsTest, FollowASeedThatTheDatasetSets) {
  torch::manual_seed(0);
  const auto expected = torch::rand({4});
  for (const int workers : {0, 2}) {
    torch::manual_seed(0);
    DataLoader loader(SeedsItself{}, options_with(workers));
    bool is_first = true;
    for (auto& batch : loader) {
      EXPECT_TRUE(torch::equal(batch.data, batch.target));
      EXPECT_TRUE(torch::equal(batch.data[0], batch.data[1]));
      EXPECT_FALSE(torch::equal(batch.data[0], batch.data[2]));
      if (std::exchange(is_first, false)) {
        EXPECT_TRUE(torch::equal(batch.data[0], expected));
      }
    }
  }
}

TEST_F(SampleDrawsTest, OfCollateFunctionsAreTheBatchs) {
  const auto collate = [](const std::vector<torch::data::Example<>>& samples) {
    std::vector<torch::Tensor> rows{torch::rand({3})};
    for (const auto& sample : samples) rows.push_back(sample.data);
    return torch::stack(rows);
  };
  const auto batches_of = [&](const DataLoaderOptions& options) {
    DataLoader loader(Draws{}, options, collate);
    std::vector<torch::Tensor> all;
    for (auto& batch : loader) all.push_back(batch);
    return torch::cat(all);
  };
  const auto expected = batches_of(options_with(0, 30));
  EXPECT_FALSE(torch::equal(expected[0], expected[31]));
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const int workers : {1, 2, 7}) {
      EXPECT_TRUE(torch::equal(batches_of(options_with(workers, 30).kind(kind)), expected));
    }
  }
}

// Draws an order when it begins, and with each sample.
struct Stream {
  torch::Tensor order;
  std::int64_t at = 0;
  void reset(std::size_t, std::size_t, std::int64_t) {
    order = torch::randperm(20).to(torch::kFloat);
    at = 0;
  }
  std::optional<torch::Tensor> next() {
    if (at == 20) return std::nullopt;
    return torch::stack({order[at++], torch::rand({})});
  }
};

TEST_F(SampleDrawsTest, OfStreamsBelongToTheirShard) {
  const auto stream_of = [](const DataLoaderOptions& options) {
    DataLoader loader(Stream{}, DataLoaderOptions(options).shards(3));
    std::vector<torch::Tensor> all;
    for (int pass = 0; pass < 2; ++pass) {
      for (auto& batch : loader) all.push_back(batch.clone());
    }
    return torch::cat(all);
  };
  const auto expected = stream_of(options_with(0, 7));
  ASSERT_EQ(expected.size(0), 120);
  EXPECT_FALSE(torch::equal(expected.slice(0, 0, 7), expected.slice(0, 7, 14)));
  EXPECT_TRUE(torch::equal(expected.slice(0, 0, 60), expected.slice(0, 60)));
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    for (const int workers : {1, 2, 7}) {
      EXPECT_TRUE(torch::equal(stream_of(options_with(workers, 7).kind(kind)), expected));
    }
  }
}

}  // namespace
}  // namespace lockstep::data
