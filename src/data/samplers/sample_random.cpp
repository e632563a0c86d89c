// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/sample_random.h>

#include <cmath>
#include <numbers>

namespace lockstep::data {
namespace {

// The lower half of the counter counts blocks of four numbers; the epoch takes the upper half of
// it.
constexpr int kEpochShift = 32;

std::uint64_t two_words(at::Philox4_32& engine) {
  const std::uint64_t high = engine();
  return high << 32 | engine();
}

}  // namespace

SampleRandom::SampleRandom(std::uint64_t seed, std::int64_t epoch, std::int64_t sample)
    : engine_(seed, static_cast<std::uint64_t>(sample),
              static_cast<std::uint64_t>(epoch) << kEpochShift) {}

double SampleRandom::uniform() {
  return static_cast<double>(two_words(engine_) >> 11) * 0x1.0p-53;
}

double SampleRandom::uniform(double low, double high) {
  TORCH_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high,
              "SampleRandom::uniform: the range is [", low, ", ", high,
              "); both ends must be finite, and the lower one first");
  return low + (high - low) * uniform();
}

std::int64_t SampleRandom::below(std::int64_t count) {
  TORCH_CHECK(count > 0, "SampleRandom::below: count is ", count, "; it must be at least 1");
  // Whole multiples of `count` only, so that no number is more likely than another.
  const auto range = static_cast<std::uint64_t>(count);
  const std::uint64_t excess = (0 - range) % range;  // 2^64 modulo count
  for (;;) {
    const auto value = two_words(engine_);
    if (value <= ~excess) return static_cast<std::int64_t>(value % range);
  }
}

bool SampleRandom::bernoulli(double probability) {
  TORCH_CHECK(probability >= 0 && probability <= 1, "SampleRandom::bernoulli: probability is ",
              probability, "; it must be from 0 to 1");
  return uniform() < probability;
}

double SampleRandom::normal() {
  // Box and Muller; the second number of the pair is given up, so that nothing is remembered.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

}  // namespace lockstep::data
