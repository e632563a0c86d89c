// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/sample_random.h>
#include <torch/data/example.h>

#include <cstdint>

/// @file
/// Transforms of a whole batch: each sample is mixed with its neighbour, and so are the labels.
///
/// Shapes: data {N, ...} floating (`MixUp`) or {N, ..., H, W} of any type (`CutMix`); target int64
/// {N} with classes from 0 to `classes` - 1, or floating {N, classes}. The result's target is float
/// {N, classes}; the batch given is not changed.
/// Thread-safety: const members may be called from several threads.
/// Throws: `c10::Error` naming the argument that does not fit.
/// Source: `torchvision.transforms.v2.MixUp` and `CutMix`; the results are equal for equal drawn
/// numbers, up to rounding.

namespace lockstep::data {

/// A number in [0, 1] of the distribution Beta(alpha, alpha).
[[nodiscard]] LOCKSTEP_API double draw_beta(double alpha, SampleRandom& random);

/// Adds lambda times each sample and 1 - lambda times the sample before it; the last sample comes
/// before the first.
class LOCKSTEP_API MixUp {
 public:
  /// lambda is drawn from Beta(alpha, alpha).
  explicit MixUp(std::int64_t classes, double alpha = 1.0);

  /// The mixed batch, with a lambda that is drawn.
  [[nodiscard]] torch::data::Example<> operator()(const torch::data::Example<>& batch,
                                                  SampleRandom& random) const;
  /// The mixed batch, with this lambda.
  [[nodiscard]] torch::data::Example<> mix(const torch::data::Example<>& batch,
                                           double lambda) const;

 private:
  std::int64_t classes_;
  double alpha_;
};

/// Takes a rectangle of each sample from the sample before it; labels are mixed by its area.
class LOCKSTEP_API CutMix {
 public:
  /// The rectangle covers 1 - lambda of the area (less where it reaches over the side), and lambda
  /// is drawn from Beta(alpha, alpha).
  explicit CutMix(std::int64_t classes, double alpha = 1.0);

  /// The mixed batch, with a lambda and a place that are drawn.
  [[nodiscard]] torch::data::Example<> operator()(const torch::data::Example<>& batch,
                                                  SampleRandom& random) const;
  /// The mixed batch, with a rectangle of the size for `lambda` around this pixel.
  [[nodiscard]] torch::data::Example<> mix(const torch::data::Example<>& batch, double lambda,
                                           std::int64_t row, std::int64_t column) const;

 private:
  std::int64_t classes_;
  double alpha_;
};

}  // namespace lockstep::data
