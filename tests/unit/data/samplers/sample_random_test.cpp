// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/samplers/sample_random.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "unit/data/samplers/statistics.h"

namespace lockstep::data {
namespace {

using Block = std::array<std::uint32_t, 4>;

// Written from the paper (Salmon et al. 2011, section 3.3 and its constants), not from torch.
Block philox(Block counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto first = std::uint64_t{0xD2511F53} * counter[0];
    const auto second = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(first)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

Block next_block(SampleRandom& random) {
  Block block{};
  for (auto& word : block) word = random();
  return block;
}

// The known answers that come with Random123, the authors' own code.
TEST(SampleRandom, TheReferenceHasTheKnownAnswers) {
  constexpr auto kAll = 0xFFFFFFFFU;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  EXPECT_EQ(philox({kAll, kAll, kAll, kAll}, {kAll, kAll}),
            (Block{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(philox({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (Block{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

TEST(SampleRandom, IsPhiloxOfSeedEpochAndSample) {
  SampleRandom zero(0, 0, 0);
  EXPECT_EQ(next_block(zero), (Block{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
  for (const std::uint64_t seed : {0ULL, 7ULL, 0xA4093822299F31D0ULL}) {
    for (const std::uint64_t epoch : {0U, 1U, 0xFFFFFFFFU}) {
      for (const std::int64_t sample : {0L, 1L, 59999L, 1L << 40, -1L}) {
        SampleRandom random(seed, static_cast<std::int64_t>(epoch), sample);
        const auto number = static_cast<std::uint64_t>(sample);
        for (std::uint32_t block = 0; block < 3; ++block) {
          EXPECT_EQ(next_block(random),
                    philox({block, low(epoch), low(number), high(number)}, {low(seed), high(seed)}))
              << seed << ' ' << epoch << ' ' << sample << ' ' << block;
        }
      }
    }
  }
}

TEST(SampleRandom, BelowIsUniform) {
  SampleRandom random(3, 1, 4);
  for (const std::int64_t count : {1, 2, 3, 7, 10, 100}) {
    std::vector<std::size_t> seen(static_cast<std::size_t>(count), 0);
    for (int i = 0; i < 20000; ++i) {
      const auto value = random.below(count);
      ASSERT_TRUE(value >= 0 && value < count);
      ++seen[static_cast<std::size_t>(value)];
    }
    EXPECT_LT(chi_square_sigmas(seen), 5) << count;
  }
  // Three quarters of the range: a plain remainder would give the lower third twice as often.
  const auto large = std::int64_t{3} << 61;
  std::vector<std::size_t> thirds(3, 0);
  for (int i = 0; i < 9000; ++i)
    ++thirds[static_cast<std::size_t>(random.below(large) / (large / 3))];
  EXPECT_LT(chi_square_sigmas(thirds), 5);
  EXPECT_EQ(random.below(1), 0);
  const auto most = std::numeric_limits<std::int64_t>::max();
  EXPECT_LT(random.below(most), most);
}

TEST(SampleRandom, UniformFillsItsRange) {
  SampleRandom random(3, 1, 4);
  std::vector<std::size_t> tenths(10, 0);
  for (int i = 0; i < 20000; ++i) {
    const double value = random.uniform();
    ASSERT_TRUE(value >= 0 && value < 1);
    EXPECT_EQ(std::ldexp(value, 53), std::floor(std::ldexp(value, 53)));
    ++tenths[static_cast<std::size_t>(value * 10)];
    const double wide = random.uniform(-2, 6);
    ASSERT_TRUE(wide >= -2 && wide < 6);
  }
  EXPECT_LT(chi_square_sigmas(tenths), 5);
  EXPECT_EQ(random.uniform(2.5, 2.5), 2.5);
  // Two words, the first the higher one, cut to 53 bits.
  SampleRandom words(0, 0, 0);
  const auto bits = std::uint64_t{0x6627E8D5} << 32 | 0xE169C58D;
  EXPECT_EQ(words.uniform(), std::ldexp(static_cast<double>(bits >> 11), -53));
}

TEST(SampleRandom, NormalAndBernoulliHaveTheirMoments) {
  SampleRandom random(11, 2, 5);
  constexpr int kDraws = 40000;
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  int heads = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.normal();
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += value * value;
    fourth += value * value * value * value;
    heads += random.bernoulli(0.25) ? 1 : 0;
  }
  EXPECT_NEAR(sum / kDraws, 0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
  EXPECT_NEAR(heads, kDraws * 0.25, 5 * std::sqrt(kDraws * 0.25 * 0.75));
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(random.bernoulli(0));
    EXPECT_TRUE(random.bernoulli(1));
  }
}

// Streams of neighbours in any of the three numbers agree in half of their bits, as strangers do.
TEST(SampleRandom, NeighboursAreStrangers) {
  const auto distance = [](SampleRandom a, SampleRandom b) {
    int bits = 0;
    for (int i = 0; i < 1000; ++i) bits += std::popcount(a() ^ b());
    return bits;
  };
  const double expected = 16000;
  const double limit = 5 * std::sqrt(8000.0);
  for (std::int64_t i = 0; i < 50; ++i) {
    const auto seed = static_cast<std::uint64_t>(i);
    EXPECT_NEAR(distance({seed, 3, 4}, {seed + 1, 3, 4}), expected, limit);
    EXPECT_NEAR(distance({9, i, 4}, {9, i + 1, 4}), expected, limit);
    EXPECT_NEAR(distance({9, 3, i}, {9, 3, i + 1}), expected, limit);
    EXPECT_NEAR(distance({9, i, i + 1}, {9, i + 1, i}), expected, limit);
  }
  // The first numbers of many samples, as a dataset uses them.
  std::vector<std::size_t> seen(16, 0);
  double correlation = 0;
  double last = SampleRandom(5, 0, -1).uniform() - 0.5;
  for (std::int64_t sample = 0; sample < 20000; ++sample) {
    const double value = SampleRandom(5, 0, sample).uniform() - 0.5;
    ++seen[static_cast<std::size_t>((value + 0.5) * 16)];
    correlation += value * last * 12;
    last = value;
  }
  EXPECT_LT(chi_square_sigmas(seen), 5);
  EXPECT_NEAR(correlation / 20000, 0, 5 / std::sqrt(20000.0));
}

TEST(SampleRandom, ServesTheStandardLibrary) {
  static_assert(std::uniform_random_bit_generator<SampleRandom>);
  SampleRandom random(1, 2, 3);
  std::uniform_int_distribution<int> dice(1, 6);
  for (int i = 0; i < 100; ++i) {
    const int face = dice(random);
    EXPECT_TRUE(face >= 1 && face <= 6);
  }
}

TEST(SampleRandom, RefusesWhatHasNoMeaning) {
  SampleRandom random(0, 0, 0);
  const auto infinity = std::numeric_limits<double>::infinity();
  const auto nan = std::nan("");
  EXPECT_THROW(random.uniform(2, 1), c10::Error);
  EXPECT_THROW(random.uniform(0, infinity), c10::Error);
  EXPECT_THROW(random.uniform(nan, 1), c10::Error);
  EXPECT_THROW(random.below(0), c10::Error);
  EXPECT_THROW(random.below(-5), c10::Error);
  EXPECT_THROW(random.bernoulli(1.01), c10::Error);
  EXPECT_THROW(random.bernoulli(-0.01), c10::Error);
  EXPECT_THROW(random.bernoulli(nan), c10::Error);
}

}  // namespace
}  // namespace lockstep::data
