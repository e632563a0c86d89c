// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <span>
#include <vector>

#include "support/loader_test_support.h"
#include "unit/data/samplers/statistics.h"

namespace lockstep::data::detail {
namespace {

std::vector<std::uint64_t> whole(const KeyedPermutation& permutation) {
  std::vector<std::uint64_t> all(permutation.size());
  for (std::uint64_t i = 0; i < all.size(); ++i) all[i] = permutation(i);
  return all;
}

TEST(KeyedPermutation, IsABijectionAtEverySize) {
  for (std::uint64_t size = 1; size <= 700; ++size) {
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      const KeyedPermutation permutation(size, size * 31, epoch);
      std::vector<bool> seen(size, false);
      for (std::uint64_t position = 0; position < size; ++position) {
        const auto index = permutation(position);
        ASSERT_LT(index, size);
        ASSERT_FALSE(seen[index]) << "size " << size << " gives " << index << " twice";
        seen[index] = true;
        ASSERT_EQ(permutation.position_of(index), position) << "size " << size;
      }
    }
  }
}

TEST(KeyedPermutation, IsABijectionOfLargeSets) {
  for (const std::uint64_t size : {65536ULL, 99991ULL, 1000000ULL}) {
    const KeyedPermutation permutation(size, 5, 6);
    std::vector<bool> seen(size, false);
    for (std::uint64_t position = 0; position < size; ++position) {
      const auto index = permutation(position);
      ASSERT_FALSE(index >= size || seen[index]);
      seen[index] = true;
    }
  }
  for (const std::uint64_t size : {std::uint64_t{1000000007}, (std::uint64_t{1} << 32) + 1,
                                   (std::uint64_t{1} << 61) + 12345, KeyedPermutation::kMaxSize}) {
    const KeyedPermutation permutation(size, 5, 6);
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const auto position = i * (size / 2000) + (i % 7);
      ASSERT_LT(permutation(position), size);
      ASSERT_EQ(permutation.position_of(permutation(position)), position);
    }
  }
}

TEST(KeyedPermutation, FillsWhatItGivesOneByOne) {
  for (const std::uint64_t size : {1ULL, 2ULL, 13ULL, 64ULL, 1000ULL, 1000000007ULL}) {
    const KeyedPermutation permutation(size, 5, 6);
    for (const std::uint64_t step : {0ULL, 1ULL, 2ULL, 5ULL}) {
      for (std::size_t count = 0; count < 12; ++count) {
        const auto length = step * (count == 0 ? 0 : count - 1) + 1;
        if (length > size) continue;
        for (const auto position : {std::uint64_t{0}, (size - length) / 2, size - length}) {
          std::vector<std::int64_t> filled(count + 1, -1);
          permutation.fill(std::span(filled).first(count), position, step);
          EXPECT_EQ(filled.back(), -1);
          for (std::size_t i = 0; i < count; ++i) {
            ASSERT_EQ(static_cast<std::uint64_t>(filled[i]), permutation(position + i * step));
          }
        }
      }
    }
  }
}

TEST(KeyedPermutation, TheOrderIsPinned) {
  // A state that was saved with one version must be good for the next: this must never change.
  EXPECT_EQ(whole(KeyedPermutation(10, 7, 0)),
            (std::vector<std::uint64_t>{8, 5, 9, 1, 3, 7, 6, 2, 4, 0}));
  EXPECT_EQ(KeyedPermutation(1000000000, 7, 3)(123456789), 834344602U);
}

// Every permutation of a small set is as likely as every other.
TEST(KeyedPermutation, AllPermutationsOfSmallSetsComeAlike) {
  for (const std::uint64_t size : {2U, 3U, 4U, 5U}) {
    std::map<std::vector<std::uint64_t>, std::size_t> seen;
    std::vector<std::uint64_t> first(size);
    std::iota(first.begin(), first.end(), 0U);
    do seen[first] = 0;
    while (std::next_permutation(first.begin(), first.end()));
    for (std::uint64_t seed = 0; seed < 12000; ++seed)
      ++seen[whole(KeyedPermutation(size, seed, 2))];
    std::vector<std::size_t> counts;
    for (const auto& [order, count] : seen) counts.push_back(count);
    EXPECT_LT(chi_square_sigmas(counts), 5) << "size " << size;
  }
}

// Where an index stands says nothing, over seeds as over epochs; nor do two neighbours.
TEST(KeyedPermutation, PositionsAreUniform) {
  for (const std::uint64_t size : {2U, 3U, 6U, 7U, 9U, 16U, 25U, 37U, 64U, 100U}) {
    std::vector<std::size_t> by_seed(size * size, 0);
    std::vector<std::size_t> by_epoch(size * size, 0);
    std::vector<std::size_t> steps(size, 0);
    for (std::uint64_t key = 0; key < 4000; ++key) {
      const auto a = whole(KeyedPermutation(size, key, 0));
      const auto b = whole(KeyedPermutation(size, 1, static_cast<std::int64_t>(key)));
      for (std::uint64_t i = 0; i < size; ++i) {
        ++by_seed[i * size + a[i]];
        ++by_epoch[i * size + b[i]];
      }
      ++steps[(a[1] + size - a[0]) % size];
    }
    EXPECT_LT(chi_square_sigmas(by_seed), 5) << "size " << size;
    EXPECT_LT(chi_square_sigmas(by_epoch), 5) << "size " << size;
    EXPECT_EQ(steps[0], 0U);
    steps.erase(steps.begin());
    EXPECT_LT(chi_square_sigmas(steps), 5) << "size " << size;
  }
}

double rank_correlation(const KeyedPermutation& a, const KeyedPermutation& b) {
  const auto size = static_cast<double>(a.size());
  double sum = 0;
  for (std::uint64_t i = 0; i < a.size(); ++i) {
    sum +=
        (static_cast<double>(a(i)) - (size - 1) / 2) * (static_cast<double>(b(i)) - (size - 1) / 2);
  }
  return sum / (size * (size * size - 1) / 12);
}

TEST(KeyedPermutation, NeighboursAreUncorrelated) {
  for (const std::uint64_t size : {50U, 1000U, 10000U}) {
    std::size_t agreements = 0;
    constexpr std::uint64_t kPairs = 60;
    for (std::uint64_t i = 0; i < kPairs; ++i) {
      const auto epoch = static_cast<std::int64_t>(i);
      const KeyedPermutation base(size, i, epoch);
      for (const auto& other :
           {KeyedPermutation(size, i + 1, epoch), KeyedPermutation(size, i, epoch + 1),
            KeyedPermutation(size, i, epoch, 1)}) {
        EXPECT_LT(std::abs(rank_correlation(base, other)),
                  5 / std::sqrt(static_cast<double>(size) - 1));
        for (std::uint64_t p = 0; p < size; ++p) agreements += base(p) == other(p) ? 1U : 0U;
      }
    }
    // Two unrelated orders agree at one position on average.
    EXPECT_NEAR(static_cast<double>(agreements), 3.0 * kPairs, 5 * std::sqrt(3.0 * kPairs));
  }
}

// Consecutive positions come from everywhere, however large the set: no runs, no small steps.
TEST(KeyedPermutation, WindowsOfALargeSetAreUniform) {
  const KeyedPermutation permutation(1000000007, 3, 1);
  for (const std::uint64_t start : {0ULL, 500000000ULL, 1000000007ULL - 20000}) {
    std::vector<std::size_t> places(64, 0);
    std::vector<std::size_t> low_bits(64, 0);
    std::vector<std::size_t> ups(2, 0);
    for (std::uint64_t i = start; i < start + 20000; ++i) {
      const auto index = permutation(i);
      ++places[index / (1000000007 / 64 + 1)];
      ++low_bits[index % 64];
      if (i % 2 == 0) ++ups[index < permutation(i + 1 < 1000000007 ? i + 1 : 0) ? 1 : 0];
    }
    EXPECT_LT(chi_square_sigmas(places), 5);
    EXPECT_LT(chi_square_sigmas(low_bits), 5);
    EXPECT_LT(chi_square_sigmas(ups), 5);
  }
}

TEST(KeyedPermutation, SeeksAThousandMillionAtOnce) {
  const auto before = std::chrono::steady_clock::now();
  const KeyedPermutation permutation(1000000000, 9, 4);
  std::uint64_t sum = permutation(500000000);
  const auto seek = std::chrono::steady_clock::now() - before;
  for (std::uint64_t i = 1; i <= 1000000; ++i) sum += permutation(500000000 + i);
  const auto million = std::chrono::steady_clock::now() - before - seek;
  EXPECT_GT(sum, 0U);
  RecordProperty("seek_ns", static_cast<int>(std::chrono::nanoseconds(seek).count()));
  RecordProperty("draw_ns", static_cast<int>(std::chrono::nanoseconds(million).count() / 1000000));
  EXPECT_LE(sizeof(KeyedPermutation), 256U);
}

TEST(KeyedPermutation, RefusesBadArguments) {
  const auto fails = [](const std::function<void()>& call, const std::string& text) {
    const auto message = message_of(call);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  fails([] { KeyedPermutation(0, 1, 1); }, "size is 0; it must be from 1");
  fails([] { KeyedPermutation(KeyedPermutation::kMaxSize + 1, 1, 1); }, "it must be from 1 to");
  fails([] { KeyedPermutation(5, 1, -1); }, "epoch is -1");
  fails([] { KeyedPermutation(5, 1, 1, 1ULL << 62); }, "stream is");
  const KeyedPermutation permutation(5, 1, 1);
  fails([&] { static_cast<void>(permutation(5)); }, "position 5 is not below the size 5");
  fails([&] { static_cast<void>(permutation.position_of(5)); }, "index 5 is not below");
  std::vector<std::int64_t> indices(3);
  permutation.fill(indices, 0, 2);
  fails([&] { permutation.fill(indices, 1, 2); },
        "3 positions from 1 on, 2 apart, are not all below the size 5");
  fails([&] { permutation.fill(indices, 5, 0); }, "3 positions from 5 on");
  fails([&] { permutation.fill(indices, 3); }, "3 positions from 3 on, 1 apart");
  fails([&] { permutation.fill(indices, 1, ~std::uint64_t{0}); }, "are not all below");
}

}  // namespace
}  // namespace lockstep::data::detail
