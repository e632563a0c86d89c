// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/PhiloxRNGEngine.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <limits>

namespace lockstep::data {

/// The random numbers of one sample in one epoch: whoever asks for the same sample of the same
/// epoch with the same seed gets the same numbers, in whichever process, whatever came before. So
/// what a dataset draws does not depend on the number of workers, nor on which of them a sample
/// goes to.
///
/// So a sample that a sampler draws several times in one epoch (`WeightedRandomSampler`,
/// `RandomSampler` with replacement, `ClassBalance::Balanced`) gets the same numbers each time, and
/// is augmented alike. For others each time, make epochs shorter: a smaller `num_samples`, and
/// `set_epoch` before each pass.
///
/// Also a uniform random bit generator, for `<random>`; note that the distributions there differ
/// between standard libraries, and those here do not.
///
/// Thread-safety: none; a value that is cheap to make.
/// Source: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as
/// implemented by `at::Philox4_32`: the seed is the key; sample and epoch are parts of the counter,
/// so no two samples' numbers overlap within their first 2^34.
class LOCKSTEP_API SampleRandom {
 public:
  /// As `<random>` wants it.
  using result_type = std::uint32_t;

  /// The numbers of this sample in this epoch, from their beginning.
  SampleRandom(std::uint64_t seed, std::int64_t epoch, std::int64_t sample);

  /// The least that `operator()` gives.
  static constexpr result_type min() { return 0; }
  /// The most that `operator()` gives.
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }
  /// 32 random bits.
  result_type operator()() { return engine_(); }

  /// In [0, 1), a multiple of 2^-53.
  double uniform();
  /// In [low, high).
  /// Throws: `c10::Error` unless both are finite and low <= high.
  double uniform(double low, double high);
  /// In [0, count), each as likely as the others.
  /// Throws: `c10::Error` when `count` is not positive.
  std::int64_t below(std::int64_t count);
  /// True with this probability.
  /// Throws: `c10::Error` unless it is in [0, 1].
  bool bernoulli(double probability);
  /// Of mean 0 and variance 1.
  double normal();

 private:
  at::Philox4_32 engine_;
};

}  // namespace lockstep::data
