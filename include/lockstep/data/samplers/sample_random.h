// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/PhiloxRNGEngine.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <limits>

namespace lockstep::data {

/// Gives the random numbers of one sample in one epoch. They depend on seed, epoch and sample only,
/// not on the process or on what was drawn before. So
/// what a dataset draws does not depend on the number of workers, nor on which of them a sample
/// goes to.
///
/// So a sample that a sampler draws several times in one epoch (`WeightedRandomSampler`,
/// `RandomSampler` with replacement, `ClassBalance::Balanced`) gets the same numbers each time, and
/// is augmented alike. For others each time, make epochs shorter: set a smaller `num_samples`, and
/// call `set_epoch` before each pass.
///
/// It is also a uniform random bit generator for `<random>`; the distributions there differ between
/// standard libraries, and those here do not.
///
/// Thread-safety: none; a value that is cheap to make.
/// Source: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as
/// implemented by `at::Philox4_32`: the seed is the key; sample and epoch are parts of the counter,
/// so no two samples' numbers overlap within their first 2^34.
class LOCKSTEP_API SampleRandom {
 public:
  /// The type that `<random>` asks for.
  using result_type = std::uint32_t;

  /// The numbers of this sample in this epoch, from their beginning.
  SampleRandom(std::uint64_t seed, std::int64_t epoch, std::int64_t sample);

  /// The least that `operator()` gives.
  static constexpr result_type min() { return 0; }
  /// The most that `operator()` gives.
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }
  /// 32 random bits.
  result_type operator()() { return engine_(); }

  /// A number in [0, 1), a multiple of 2^-53.
  double uniform();
  /// A number in [low, high).
  /// Throws: `c10::Error` unless both are finite and low <= high.
  double uniform(double low, double high);
  /// A whole number in [0, count), each as likely as the others.
  /// Throws: `c10::Error` when `count` is not positive.
  std::int64_t below(std::int64_t count);
  /// True with this probability.
  /// Throws: `c10::Error` unless it is in [0, 1].
  bool bernoulli(double probability);
  /// A normally distributed number of mean 0 and variance 1.
  double normal();

 private:
  at::Philox4_32 engine_;
};

}  // namespace lockstep::data
