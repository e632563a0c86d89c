// SPDX-License-Identifier: BSD-3-Clause
// Kinds and numbers of workers, dying workers and sizes of the world together: the samples of an
// epoch are the same bytes in the same order, which are worked out here without a loader.
#include <lockstep/data/loader/dataset_registry.h>

#include <cstdlib>
#include <sstream>

#include "scenario/data/joint_test_support.h"
#include "unit/data/loader/sample_policy_support.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kStreamSamples = 53;
constexpr std::int64_t kBatch = 4;
constexpr std::uint64_t kStreamSeed = 11;
constexpr std::int64_t kEpochs = 2;

DistributedSampler sampler(int world, int rank) {
  return DistributedSampler(
      kStreamSamples, world, rank,
      DistributedSamplerOptions().seed(kStreamSeed).remainder(Remainder::Exact));
}

struct Case {
  const char* name;
  std::optional<WorkerKind> kind;  // none: in this thread
  std::int64_t workers;
  int world;
  bool kills;
};

void PrintTo(const Case& value, std::ostream* stream) {
  *stream << value.name << " workers " << value.workers << " world " << value.world
          << (value.kills ? " killed" : "");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int world : {1, 2, 4}) {
    all.push_back({"Inline", std::nullopt, 0, world, false});
    for (const std::int64_t workers : {1, 2, 3}) {
      all.push_back({"Thread", WorkerKind::Thread, workers, world, false});
      for (const bool kills : {false, true}) {
        all.push_back({"Process", WorkerKind::Process, workers, world, kills});
        // Each of its workers takes a tenth of a second to start, so only a part of the table.
        if (workers == world || (workers == 3 && world == 1)) {
          all.push_back({"Spawn", WorkerKind::Spawn, workers, world, kills});
        }
      }
    }
  }
  return all;
}

class SameStream : public NothingLeftBehind, public ::testing::WithParamInterface<Case> {
 protected:
  SameStream() {
    std::string made = (std::filesystem::temp_directory_path() / "joint-XXXXXX").string();
    TORCH_CHECK(::mkdtemp(made.data()) != nullptr, "no temporary folder");
    folder_ = made;
  }
  ~SameStream() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_P(SameStream, WhateverMakesIt) {
  const auto& param = GetParam();
  std::vector<std::vector<std::vector<SampleBytes>>> found;  // [rank][epoch]
  std::uint64_t restarts = 0;
  for (int rank = 0; rank < param.world; ++rank) {
    Drawn dataset{kStreamSamples};
    auto options = options_with(param.workers, kBatch).seed(kStreamSeed);
    if (param.kills) {
      // In the middle of this rank's first epoch.
      dataset.deadly = sampler(param.world, rank).index(sampler(param.world, rank).size() / 2);
      dataset.marker = (folder_ / std::to_string(rank)).string();
    }
    if (param.kind) options.kind(*param.kind);
    if (param.kind == WorkerKind::Spawn) {
      options.spawn("drawn", std::to_string(dataset.deadly) + " " + dataset.marker);
    }
    DataLoader loader(dataset, sampler(param.world, rank), options);
    auto& epochs = found.emplace_back();
    for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      loader.set_epoch(epoch);
      auto& samples = epochs.emplace_back();
      for (auto& batch : loader) {
        for (auto& bytes : bytes_of_batch(batch)) samples.push_back(std::move(bytes));
      }
    }
    restarts += loader.statistics().restarts;
    EXPECT_EQ(loader.statistics().lost_batches, 0U);
  }
  EXPECT_EQ(restarts, param.kills ? static_cast<std::uint64_t>(param.world) : 0U);

  for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    auto whole = sampler(1, 0);
    whole.set_epoch(epoch);
    std::size_t given = 0;
    for (const auto& rank : found) given += rank[static_cast<std::size_t>(epoch)].size();
    ASSERT_EQ(given, kStreamSamples);
    for (std::size_t at = 0; at < kStreamSamples; ++at) {
      const auto world = static_cast<std::size_t>(param.world);
      ASSERT_EQ(found[at % world][static_cast<std::size_t>(epoch)].at(at / world),
                bytes_of_sample(whole.index(at), kStreamSeed, epoch))
          << "epoch " << epoch << ", position " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, SameStream, ::testing::ValuesIn(cases()), [](const auto& test) {
  const auto& param = test.param;
  return param.name + std::to_string(param.workers) + "World" + std::to_string(param.world) +
         (param.kills ? "Killed" : "");
});

const std::set<std::size_t> kBroken{3, 8, 9, 10, 11, 17};

TEST(SpawnedPolicy, MissingSamplesAreTheSameAsForOtherWorkers) {
  for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    DataLoader loader(
        BrokenNumbers{kBroken}, broken_order(),
        options_with(2).kind(WorkerKind::Spawn).spawn("broken").on_failed_sample(policy));
    const auto expected = expected_pass(kBroken, policy, 4);
    EXPECT_EQ(targets_of(loader).samples, expected.samples);
    EXPECT_EQ(loader.statistics().skipped_samples, expected.skipped);
    EXPECT_EQ(loader.statistics().replaced_samples, expected.replaced);
  }
}

}  // namespace
}  // namespace lockstep::data

int main(int argc, char** argv) {
  using namespace lockstep::data;
  DatasetRegistry registry;
  registry.add("drawn", [](const std::string& config) {
    Drawn dataset{kStreamSamples};
    std::istringstream(config) >> dataset.deadly >> dataset.marker;
    return dataset;
  });
  registry.add("broken", [](const std::string&) { return BrokenNumbers{kBroken}; });
  if (const auto status = maybe_worker_main(registry)) return *status;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
