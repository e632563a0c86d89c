// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <vector>

namespace lockstep {

/// What the tuner knows of a step: when gradients were ready, and what a bucket costs.
struct StepTimes {
  std::vector<double> ready;  ///< seconds since backward began, one a parameter in bucket order
  std::vector<std::size_t> bytes;  ///< of these gradients
  double seconds_per_bucket = 0;   ///< to reduce a bucket, whatever its size
  double seconds_per_byte = 0;     ///< to reduce its bytes, in addition
};

/// A line through measured times of buckets of several sizes, as sums, so that those of several
/// ranks can be added.
struct CostSums {
  double count = 0, bytes = 0, seconds = 0, bytes_bytes = 0, bytes_seconds = 0;
  void add(double bucket_bytes, double bucket_seconds);
};
/// Fits the line by least squares, where a negative part becomes zero, and writes both costs of
/// `times`.
void fit_costs(const CostSums& sums, StepTimes& times);

/// When the last bucket is reduced by the model that buckets are reduced one after the other, each
/// when all its gradients are ready. `is_end[i]`: a bucket ends behind parameter i.
[[nodiscard]] double end_of_reduction(const StepTimes& times, const std::vector<bool>& is_end);

/// Finds the boundaries with the earliest end of reduction, and among equally good ones those with
/// the fewest buckets. No bucket is larger than `cap_bytes`, unless a single gradient is.
///
/// This is a pure function: all ranks call it with the same arguments and get the same boundaries.
/// It is exact, by dynamic programming over the last boundary: P^2 steps for P parameters.
[[nodiscard]] std::vector<bool> tune_boundaries(const StepTimes& times, std::size_t cap_bytes);

}  // namespace lockstep
