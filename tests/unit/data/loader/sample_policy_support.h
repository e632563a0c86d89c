// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/loader_test_support.h"

namespace lockstep::data {

constexpr std::size_t kBrokenCount = 23;

/// Samples that say which index they are of; those in `broken` throw.
struct BrokenNumbers {
  std::set<std::size_t> broken = {};
  std::function<void(std::size_t index)> before = [](std::size_t) {};

  void check(std::size_t index) const {
    before(index);
    if (broken.contains(index)) throw std::runtime_error("broken");
  }
  torch::data::Example<> get(std::size_t index) const {
    check(index);
    const auto value = static_cast<std::int64_t>(index);
    return {torch::full({3}, value), torch::tensor(value)};
  }
  [[nodiscard]] std::size_t size() const { return kBrokenCount; }
  [[nodiscard]] std::string describe(std::size_t index) const {
    return "number " + std::to_string(index);
  }
};

/// The same, written in place; a broken one has been written in part.
struct BrokenInPlace : BrokenNumbers {
  explicit BrokenInPlace(BrokenNumbers numbers) : BrokenNumbers(std::move(numbers)) {}

  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const {
    const auto value = static_cast<std::int64_t>(index);
    for (std::size_t at = 0; at < 3; ++at) {
      std::memcpy(data.data() + at * sizeof(value), &value, sizeof(value));
    }
    check(index);
    std::memcpy(target.data(), &value, sizeof(value));
  }
};

inline std::set<std::size_t> broken_but(std::size_t good) {
  std::set<std::size_t> broken;
  for (std::size_t index = 0; index < kBrokenCount; ++index) {
    if (index != good) broken.insert(index);
  }
  return broken;
}

inline DistributedSampler broken_order() {
  return DistributedSampler(kBrokenCount, 1, 0, DistributedSamplerOptions().seed(4));
}

/// What comes behind this index in that order.
inline std::int64_t following(std::int64_t index) {
  const auto order = broken_order().indices();
  const auto at = std::find(order.begin(), order.end(), index) - order.begin();
  return order.at(static_cast<std::size_t>(at + 1) % order.size());
}

struct ExpectedPass {
  std::vector<std::int64_t> samples;
  std::size_t skipped = 0;
  std::size_t replaced = 0;
  std::size_t lost = 0;  // batches
};

/// A pass over `broken_order()`, by the words of `SamplePolicy`.
inline ExpectedPass expected_pass(const std::set<std::size_t>& broken, SamplePolicy policy,
                                  std::int64_t batch_size, const std::set<std::size_t>& poison = {},
                                  SamplePolicy poison_policy = SamplePolicy::Error) {
  ExpectedPass expected;
  const auto order = broken_order().indices();
  const auto is_good = [&](std::int64_t index) {
    return !broken.contains(static_cast<std::size_t>(index)) &&
           !poison.contains(static_cast<std::size_t>(index));
  };
  for (std::size_t first = 0; first < order.size(); first += static_cast<std::size_t>(batch_size)) {
    const auto last = std::min(first + static_cast<std::size_t>(batch_size), order.size());
    ExpectedPass batch;
    for (auto at = first; at < last; ++at) {
      if (is_good(order[at])) {
        batch.samples.push_back(order[at]);
        continue;
      }
      const bool kills = poison.contains(static_cast<std::size_t>(order[at]));
      if ((kills ? poison_policy : policy) == SamplePolicy::Skip) {
        ++batch.skipped;
        continue;
      }
      std::vector<std::int64_t> others(order.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                                       order.begin() + static_cast<std::ptrdiff_t>(last));
      others.insert(others.end(), order.begin() + static_cast<std::ptrdiff_t>(first),
                    order.begin() + static_cast<std::ptrdiff_t>(at));
      for (auto behind = last; behind < std::min(last + 4, order.size()); ++behind) {
        others.push_back(order[behind]);
      }
      const auto found = std::find_if(others.begin(), others.end(), is_good);
      if (found == others.end()) {
        batch.lost = 1;
        break;
      }
      batch.samples.push_back(*found);
      ++batch.replaced;
    }
    if (batch.lost != 0) {
      ++expected.lost;
      continue;
    }
    expected.samples.insert(expected.samples.end(), batch.samples.begin(), batch.samples.end());
    expected.skipped += batch.skipped;
    expected.replaced += batch.replaced;
  }
  return expected;
}

}  // namespace lockstep::data
