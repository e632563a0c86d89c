// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/samplers/distributed_sampler.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <random>
#include <sstream>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using Indices = std::vector<std::int64_t>;

struct Case {
  std::size_t size;
  int world;
  int rank;
  bool shuffle;
  std::uint64_t seed;
  std::int64_t epoch;
  bool drop;
};

Indices ours(const Case& c) {
  DistributedSampler sampler(c.size, c.world, c.rank,
                             DistributedSamplerOptions().shuffle(c.shuffle).seed(c.seed).remainder(
                                 c.drop ? Remainder::Drop : Remainder::Pad));
  sampler.set_epoch(c.epoch);
  EXPECT_EQ(sampler.indices().size(), sampler.size());
  return sampler.indices();
}

// Made with Python's DistributedSampler of torch 2.11.
TEST(DistributedSampler, EqualsPythonOnRecordedCases) {
  EXPECT_EQ(ours({10, 3, 0, true, 7, 0, false}), (Indices{5, 4, 9, 2}));
  EXPECT_EQ(ours({10, 3, 2, true, 7, 0, false}), (Indices{3, 7, 8, 0}));
  EXPECT_EQ(ours({10, 3, 1, true, 7, 3, true}), (Indices{4, 3, 8}));
  EXPECT_EQ(ours({2, 5, 4, true, 0, 1, false}), (Indices{1}));
  EXPECT_EQ(ours({10, 4, 3, false, 0, 0, false}), (Indices{3, 7, 1}));
  EXPECT_EQ(ours({11, 4, 1, true, 123456789, 2, false}), (Indices{0, 10, 5}));
}

std::string run_python(const std::string& program) {
  const std::string command =
      std::string("\"") + LOCKSTEP_TORCH_PYTHON + "\" -c '" + program + "' 2>/dev/null";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"),
                                                             ::pclose);
  std::string output;
  std::array<char, 4096> buffer{};
  while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
    output += buffer.data();
  }
  return output;
}

TEST(DistributedSampler, EqualsPythonIndexForIndex) {
  std::vector<Case> cases;
  for (const std::size_t size : {1U, 7U, 64U, 1001U}) {
    for (const int world : {1, 2, 3, 8}) {
      for (const bool drop : {false, true}) {
        cases.push_back({size, world, world - 1, true, 41, 5, drop});
        cases.push_back({size, world, 0, false, 41, 5, drop});
      }
    }
  }
  cases.push_back({60000, 2, 1, true, 7, 2, false});
  std::mt19937 random(20);
  for (int i = 0; i < 1000; ++i) {
    const int world = 1 + static_cast<int>(random() % 9);
    const int rank = static_cast<int>(random() % static_cast<unsigned>(world));
    cases.push_back({1 + random() % 120, world, rank, random() % 8 != 0, random() % 100000,
                     static_cast<std::int64_t>(random() % 1000), random() % 2 == 0});
  }
  std::ostringstream program;
  program << "from torch.utils.data import DistributedSampler as S\n"
          << "print(\"ready\")\nfor n,w,r,sh,seed,e,d in [";
  for (const auto& c : cases) {
    program << '(' << c.size << ',' << c.world << ',' << c.rank << ',' << int(c.shuffle) << ','
            << c.seed << ',' << c.epoch << ',' << int(c.drop) << "),";
  }
  program
      << "]:\n  s=S(range(n),num_replicas=w,rank=r,shuffle=bool(sh),seed=seed,drop_last=bool(d))\n"
      << "  s.set_epoch(e); x=list(s); print(len(x), *x)\n";
  std::istringstream output(run_python(program.str()));
  std::string ready;
  if (!(output >> ready) || ready != "ready") {
    GTEST_SKIP() << "NOT COMPARED with Python's DistributedSampler: '" << LOCKSTEP_TORCH_PYTHON
                 << "' cannot import torch (a CPU-only installation has no importable one)";
  }
  for (const auto& c : cases) {
    std::size_t count = 0;
    ASSERT_TRUE(output >> count);
    Indices theirs(count);
    for (auto& index : theirs) ASSERT_TRUE(output >> index);
    EXPECT_EQ(ours(c), theirs) << "size " << c.size << " world " << c.world << " rank " << c.rank
                               << " shuffle " << c.shuffle << " drop " << c.drop;
  }
}

TEST(DistributedSampler, ExactShardsHoldEveryIndexOnce) {
  for (const std::size_t size : {1U, 2U, 10U, 11U}) {
    for (const bool shuffle : {false, true}) {
      Indices all;
      std::size_t fewest = size;
      std::size_t most = 0;
      for (int rank = 0; rank < 4; ++rank) {
        const DistributedSampler sampler(
            size, 4, rank,
            DistributedSamplerOptions().shuffle(shuffle).remainder(Remainder::Exact));
        const auto mine = sampler.indices();
        EXPECT_EQ(mine.size(), sampler.size());
        fewest = std::min(fewest, mine.size());
        most = std::max(most, mine.size());
        all.insert(all.end(), mine.begin(), mine.end());
      }
      EXPECT_LE(most - fewest, 1U);
      std::sort(all.begin(), all.end());
      ASSERT_EQ(all.size(), size);
      for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(all[i], static_cast<std::int64_t>(i));
    }
  }
}

TEST(DistributedSampler, OrderChangesWithEpochAndSeedOnly) {
  DistributedSampler sampler(100, 2, 0, DistributedSamplerOptions().seed(3));
  const auto first = sampler.indices();
  EXPECT_EQ(sampler.indices(), first);
  sampler.set_epoch(1);
  EXPECT_NE(sampler.indices(), first);
  sampler.set_epoch(0);
  EXPECT_EQ(sampler.indices(), first);
  EXPECT_NE(DistributedSampler(100, 2, 0, DistributedSamplerOptions().seed(4)).indices(), first);
}

TEST(DistributedSampler, KeyedHasTheSameOrderForEveryWorld) {
  const auto options =
      DistributedSamplerOptions().seed(3).order(ShuffleOrder::Keyed).remainder(Remainder::Exact);
  DistributedSampler alone(103, 1, 0, options);
  alone.set_epoch(2);
  const auto order = alone.indices();
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(order[i], static_cast<std::int64_t>(detail::KeyedPermutation(103, 3, 2)(i)));
  }
  for (int world = 2; world <= 5; ++world) {
    for (int rank = 0; rank < world; ++rank) {
      DistributedSampler sampler(103, world, rank, options);
      sampler.set_epoch(2);
      const auto mine = sampler.indices();
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto place = static_cast<std::size_t>(rank) + i * static_cast<std::size_t>(world);
        EXPECT_EQ(mine[i], order[place]);
        EXPECT_EQ(sampler.index(i), mine[i]);
      }
    }
  }
  const auto of = [](const DistributedSamplerOptions& o) {
    return DistributedSampler(103, 2, 1, o).indices();
  };
  EXPECT_NE(of(options), of(DistributedSamplerOptions(options).seed(4)));
  EXPECT_NE(of(options), of(DistributedSamplerOptions(options).order(ShuffleOrder::PyTorch)));
}

TEST(DistributedSampler, FingerprintTellsOrdersApart) {
  const auto of = [](std::size_t size, int world, const DistributedSamplerOptions& options) {
    return DistributedSampler(size, world, 0, options).fingerprint();
  };
  const DistributedSamplerOptions python;
  const auto keyed = DistributedSamplerOptions().order(ShuffleOrder::Keyed);
  const auto sequential = DistributedSamplerOptions().shuffle(false);
  EXPECT_EQ(of(10, 1, python), of(10, 3, DistributedSamplerOptions(python).seed(9)));
  EXPECT_EQ(of(10, 1, sequential), of(10, 1, DistributedSamplerOptions(keyed).shuffle(false)));
  EXPECT_NE(of(10, 1, python), of(11, 1, python));
  EXPECT_NE(of(10, 1, python), of(10, 1, keyed));
  EXPECT_NE(of(10, 1, python), of(10, 1, sequential));
}

TEST(DistributedSampler, RefusesBadArguments) {
  const auto message = [](std::size_t size, int world, int rank) {
    return message_of([=] { DistributedSampler(size, world, rank); });
  };
  EXPECT_NE(message(0, 1, 0).find("dataset_size is 0; it must be from 1"), std::string::npos);
  EXPECT_NE(message(5, 0, 0).find("world_size is 0; it must be at least 1"), std::string::npos);
  EXPECT_NE(message(5, 2, 2).find("rank is 2; it must be from 0 to 1"), std::string::npos);
  EXPECT_NE(message(5, 2, -1).find("rank is -1"), std::string::npos);
  DistributedSampler sampler(5, 1, 0);
  EXPECT_NE(message_of([&] { sampler.set_epoch(-1); }).find("epoch is -1"), std::string::npos);
  EXPECT_NE(message_of([&] { sampler.start_at(6); }).find("cannot start at position 6"),
            std::string::npos);
  EXPECT_NE(
      message_of([&] { static_cast<void>(sampler.index(5)); }).find("position 5 is not below"),
      std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
