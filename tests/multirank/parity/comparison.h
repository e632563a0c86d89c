// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/types.h>

#include <string>

#include "multirank/parity/parity_case.h"
#include "multirank/parity/tensor_file.h"

namespace lockstep::testing::parity {

/// Compares tensors with the oracle's, and makes sure that the tolerance would not have hidden a
/// gradient that is wrong by one percent, nor a parameter whose way was longer by one percent.
/// Failures are gtest's.
///
/// N ranks; eps is the machine epsilon of a dtype, so that a rounding errs by eps/2 at most.
/// |own| is the mean over the ranks of the absolute values of their own gradients.
///
/// - Gradients of the first step. Both sides have the same own gradients, bit for bit: same
///   library, same kernels, one thread. PyTorch multiplies each by 1/N and adds; Lockstep adds and
///   multiplies once. Either errs by at most eps (rounding 1/N and the product) plus (N-1) eps/2
///   (the additions) times |own|, so that the two differ by at most (N+1) eps |own|.
///   `Precision::own` adds its epsilons of the largest |own|.
/// - Gradients of later steps are taken at parameters that differ already, by about 1e-6 of their
///   size, and the curvature of these networks and losses is of order one: `kDrift` epsilons of the
///   largest |own|, which is 1e-4 of it for Float.
/// - Parameters. Each of S steps adds a rounding of the parameter, and `Optimizer::gain` times the
///   difference of the gradients. The factor 8 covers that later gradients are taken at other
///   parameters, and that |own| changes over the steps.
/// - Few bits (16 of them travel, or parameters are BFloat16): the same with that dtype's eps.
///   For single elements this is not far below one percent, without the factor 8: these roundings
///   are so coarse that bounds for the worst case have room enough. But rounding errors have no
///   direction: along the whole tensor e of n elements, the factor <a, e> / <e, e> errs by
///   1/sqrt(n) of that. For errors within t with a variance of t^2 / 3, four standard deviations
///   are 2.3 |e t| / <e, e>.
class Comparison {
 public:
  Comparison(const Case& parity_case, int ranks) : case_(parity_case), ranks_(ranks) {}

  void first_gradient(const std::string& name, const torch::Tensor& actual,
                      const StoredTensor& expected, const torch::Tensor& own);
  void later_gradient(const std::string& name, const torch::Tensor& actual,
                      const StoredTensor& expected, const torch::Tensor& own);
  /// `own` is that of the first step; undefined for a parameter that has no gradient. `start`:
  /// where training began.
  void parameter(const std::string& name, const torch::Tensor& actual, const StoredTensor& expected,
                 const torch::Tensor& start, const torch::Tensor& own, std::int64_t steps);
  /// Running statistics depend on parameters as gradients of later steps do.
  void buffer(const std::string& name, const torch::Tensor& actual, const StoredTensor& expected);

  /// The largest difference so far, as a part of its tolerance.
  [[nodiscard]] double worst() const { return worst_; }
  /// How many gradients would have failed, had they been larger by one percent.
  [[nodiscard]] int sharp_gradients() const { return sharp_gradients_; }

 private:
  [[nodiscard]] double travelling_epsilon() const;
  [[nodiscard]] torch::Tensor rounding(const torch::Tensor& own) const;
  void gradient(const std::string& what, const torch::Tensor& actual, const StoredTensor& expected,
                const torch::Tensor& tolerance);
  void within(const std::string& what, const torch::Tensor& actual, const torch::Tensor& expected,
              const torch::Tensor& tolerance);

  const Case& case_;
  int ranks_;
  double worst_ = 0;
  int sharp_gradients_ = 0;
};

}  // namespace lockstep::testing::parity
