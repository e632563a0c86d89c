// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/samplers/detail/keyed_permutation.h>

#include <c10/util/Exception.h>
#include <lockstep/data/samplers/sample_random.h>

#include <cmath>
#include <limits>

#include "data/samplers/mix.h"

namespace lockstep::data::detail {
namespace {

constexpr std::uint64_t kMaxStream = std::uint64_t{1} << 62;

// Below `base`, which is below 2^32: one number is more likely than another by base / 2^32 at most.
std::uint64_t round_value(std::uint64_t digit, std::uint64_t key, std::uint64_t base) noexcept {
  return ((mix(digit + key) >> 32) * base) >> 32;
}

std::uint64_t add(std::uint64_t digit, std::uint64_t value, std::uint64_t base) noexcept {
  const auto sum = digit + value;
  return sum < base ? sum : sum - base;
}

std::uint64_t subtract(std::uint64_t digit, std::uint64_t value, std::uint64_t base) noexcept {
  return digit >= value ? digit - value : digit + base - value;
}

// The smallest even number whose square is not below `size`.
std::uint64_t even_root(std::uint64_t size) noexcept {
  auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(size)));
  while (root * root < size) ++root;
  return root + root % 2;
}

}  // namespace

KeyedPermutation::KeyedPermutation(std::uint64_t size, std::uint64_t seed, std::int64_t epoch,
                                   std::uint64_t stream)
    : size_(size), low_base_(2), high_base_(1) {
  TORCH_CHECK(size > 0 && size <= kMaxSize, "KeyedPermutation: size is ", size,
              "; it must be from 1 to ", kMaxSize);
  TORCH_CHECK(epoch >= 0, "KeyedPermutation: epoch is ", epoch, "; it must not be negative");
  TORCH_CHECK(stream < kMaxStream, "KeyedPermutation: stream is ", stream, "; it must be below ",
              kMaxStream);
  low_base_ = even_root(size);
  high_base_ = (size + low_base_ - 1) / low_base_;
  // Samples have the numbers from 0 on, so that no dataset draws these numbers.
  SampleRandom random(seed, epoch,
                      std::numeric_limits<std::int64_t>::min() + static_cast<std::int64_t>(stream));
  for (auto& key : keys_) {
    const std::uint64_t high = random();
    key = high << 32 | random();
  }
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t position) const {
  TORCH_CHECK(position < size_, "KeyedPermutation: position ", position, " is not below the size ",
              size_);
  return below_size(forward(position));
}

void KeyedPermutation::fill(std::span<std::int64_t> indices, std::uint64_t position,
                            std::uint64_t step) const {
  if (indices.empty()) return;
  TORCH_CHECK(
      position < size_ && (step == 0 || indices.size() - 1 <= (size_ - 1 - position) / step),
      "KeyedPermutation: ", indices.size(), " positions from ", position, " on, ", step,
      " apart, are not all below the size ", size_);
  std::size_t done = 0;
  for (; indices.size() - done >= kSideBySide; done += kSideBySide) {
    std::array<std::uint64_t, kSideBySide> low;
    std::array<std::uint64_t, kSideBySide> high;
    for (std::size_t i = 0; i < kSideBySide; ++i) {
      low[i] = position % low_base_;
      high[i] = position / low_base_;
      position += step;
    }
    forward(low, high);
    for (std::size_t i = 0; i < kSideBySide; ++i) {
      indices[done + i] = static_cast<std::int64_t>(below_size(high[i] * low_base_ + low[i]));
    }
  }
  for (; done < indices.size(); ++done, position += step) {
    indices[done] = static_cast<std::int64_t>(below_size(forward(position)));
  }
}

// Fewer than low_base_ numbers lie beyond the end, so the walk is short.
std::uint64_t KeyedPermutation::below_size(std::uint64_t value) const noexcept {
  while (value >= size_) value = forward(value);
  return value;
}

std::uint64_t KeyedPermutation::position_of(std::uint64_t index) const {
  TORCH_CHECK(index < size_, "KeyedPermutation: index ", index, " is not below the size ", size_);
  auto value = backward(index);
  while (value >= size_) value = backward(value);
  return value;
}

std::uint64_t KeyedPermutation::forward(std::uint64_t value) const noexcept {
  std::array low{value % low_base_};
  std::array high{value / low_base_};
  forward(low, high);
  return high[0] * low_base_ + low[0];
}

template <std::size_t Count>
void KeyedPermutation::forward(std::array<std::uint64_t, Count>& low,
                               std::array<std::uint64_t, Count>& high) const noexcept {
  for (std::size_t round = 0; round < kRounds; round += 2) {
    for (std::size_t i = 0; i < Count; ++i) {
      low[i] = add(low[i], round_value(high[i], keys_[round], low_base_), low_base_);
    }
    for (std::size_t i = 0; i < Count; ++i) {
      high[i] = add(high[i], round_value(low[i], keys_[round + 1], high_base_), high_base_);
    }
  }
}

std::uint64_t KeyedPermutation::backward(std::uint64_t value) const noexcept {
  auto low = value % low_base_;
  auto high = value / low_base_;
  for (std::size_t round = kRounds; round > 0; round -= 2) {
    high = subtract(high, round_value(low, keys_[round - 1], high_base_), high_base_);
    low = subtract(low, round_value(high, keys_[round - 2], low_base_), low_base_);
  }
  return high * low_base_ + low;
}

}  // namespace lockstep::data::detail
