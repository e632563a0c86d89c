// SPDX-License-Identifier: BSD-3-Clause
// Workers that end while they are at no single sample, and samples that are not there to be left
// out: what on_poison_sample does about them.
#include <csignal>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using PoisonPolicyTest = NothingLeftBehind;

// A collate function that kills its worker at the batch with this sample.
auto deadly_collate(std::int64_t sample) {
  return [sample](Samples samples) {
    for (const auto& each : samples) {
      if (each.target.item<std::int64_t>() == sample) ::raise(SIGKILL);
    }
    return stack(std::move(samples));
  };
}

// Shard s has 40 samples, numbered from 1000 s upwards.
struct NumberedLines {
  std::size_t shard = 0;
  std::size_t at = 0;
  std::function<void(std::size_t shard, std::size_t at)> before = [](std::size_t, std::size_t) {};

  void reset(std::size_t number, std::size_t, std::int64_t) {
    shard = number;
    at = 0;
  }
  std::optional<torch::data::Example<>> next() {
    before(shard, at);
    if (at == 40) return std::nullopt;
    const auto value = static_cast<std::int64_t>(1000 * shard + at++);
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

std::vector<std::int64_t> all_but(std::int64_t first, std::int64_t last, std::int64_t gap_begin,
                                  std::int64_t gap_end) {
  std::vector<std::int64_t> result;
  for (auto i = first; i < last; ++i) {
    if (i < gap_begin || i >= gap_end) result.push_back(i);
  }
  return result;
}

TEST_F(PoisonPolicyTest, CollateThatKillsItsWorkersIsAnErrorWhateverThePolicy) {
  for (const auto policy : {PoisonPolicy::Error, PoisonPolicy::Skip}) {
    DataLoader loader(Numbers{20}, in_order(20), options_with(2).on_poison_sample(policy),
                      deadly_collate(6));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples, all_but(0, 20, 4, 8));
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].signal(), SIGKILL);
    EXPECT_EQ(pass.errors[0].batch_index(), 1);
    EXPECT_EQ(loader.statistics().skipped_samples, 0U);
  }
}

TEST_F(PoisonPolicyTest, StreamThatKillsItsWorkersEndsWithAnErrorAndTheOthersGoOn) {
  for (const auto policy : {PoisonPolicy::Error, PoisonPolicy::Skip}) {
    NumberedLines lines;
    lines.before = [](std::size_t shard, std::size_t at) {
      if (shard == 1 && at == 6) ::raise(SIGKILL);
    };
    DataLoader loader(lines, options_with(2).shards(2).on_poison_sample(policy));
    auto pass = targets_of(loader);
    auto expected = all_but(0, 40, 0, 0);
    for (const int sample : {1000, 1001, 1002, 1003}) expected.push_back(sample);
    std::sort(pass.samples.begin(), pass.samples.end());
    EXPECT_EQ(pass.samples, expected);
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].signal(), SIGKILL);
  }
}

TEST_F(PoisonPolicyTest, StreamsBatchThatCannotBeMadeIsLostAloneAndNothingComesTwice) {
  for (const auto policy : {PoisonPolicy::Error, PoisonPolicy::Skip}) {
    DataLoader loader(NumberedLines{}, options_with(1).shards(1).on_poison_sample(policy),
                      deadly_collate(33));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples, all_but(0, 40, 32, 36));
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].batch_index(), 8);
  }
}

TEST_F(PoisonPolicyTest, ErrorOfCollateLosesTheSameBatchWhereverItIsBuilt) {
  for (const int workers : {0, 1, 2}) {
    DataLoader loader(NumberedLines{}, options_with(workers).shards(2), [](Samples samples) {
      TORCH_CHECK(samples[0].target.item<std::int64_t>() != 1004, "cannot be stacked");
      return stack(std::move(samples));
    });
    auto pass = targets_of(loader);
    std::sort(pass.samples.begin(), pass.samples.end());
    auto expected = all_but(0, 40, 0, 0);
    for (const auto sample : all_but(1000, 1040, 1004, 1008)) expected.push_back(sample);
    EXPECT_EQ(pass.samples, expected) << workers;
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].batch_index(), 3) << workers;
    EXPECT_EQ(loader.statistics().lost_batches, 1U) << workers;
    EXPECT_EQ(loader.statistics().batches, 19U) << workers;
  }
}

// So quick that several are claimed at a time.
struct Quick {
  std::function<void(std::size_t)> before;

  torch::data::Example<> get(std::size_t index) {
    const auto value = static_cast<std::int64_t>(index);
    return {torch::full({1}, value), torch::tensor(value)};
  }
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) {
    before(index);
    const auto value = static_cast<std::int64_t>(index);
    std::memcpy(data.data(), &value, sizeof(value));
    std::memcpy(target.data(), &value, sizeof(value));
  }
  std::size_t size() const { return std::size_t{64} * 30; }
};

TEST_F(PoisonPolicyTest, TwoPoisonSamplesOfABatchEndTwoWorkersEach) {
  for (int repetition = 0; repetition < 4; ++repetition) {
    SharedCounters deaths;
    Quick dataset;
    dataset.before = [&](std::size_t index) {
      if (index != 64 * 20 + 1 && index != 64 * 20 + 40) return;
      ++deaths.words[index % 64];
      ::raise(SIGKILL);
    };
    DataLoader loader(
        dataset, in_order(dataset.size()),
        options_with(2, 64).prepare_next_epoch(false).on_poison_sample(PoisonPolicy::Skip));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), dataset.size() - 2);
    EXPECT_EQ(deaths.words[1], 2);
    EXPECT_EQ(deaths.words[40], 2);
    EXPECT_EQ(loader.statistics().skipped_samples, 2U);
  }
}

}  // namespace
}  // namespace lockstep::data
