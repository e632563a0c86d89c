// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace example {

/// Rises in a straight line from `peak / warmup_steps` to `peak`, then falls along half a cosine
/// towards 0.
///
/// Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (warm-up); Loshchilov and Hutter,
/// "SGDR", 2017 (cosine).
class LearningRate {
 public:
  /// Throws: `c10::Error` when `peak` is not a positive number, or the warm-up is negative or
  /// longer than the run.
  LearningRate(double peak, int64_t warmup_steps, int64_t total_steps);

  /// Of step 0, 1, ...; 0 after the last one.
  [[nodiscard]] double at(int64_t step) const;

 private:
  double peak_;
  int64_t warmup_steps_;
  int64_t total_steps_;
};

/// Makes `rate` the learning rate of every parameter group.
void set_learning_rate(torch::optim::Optimizer& optimizer, double rate);

}  // namespace example
