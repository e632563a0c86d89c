// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/arg.h>

#include <cstdint>

namespace lockstep::hooks {

/// What a `PowerSgd` is told. The same on all ranks. Names and defaults are those of PyTorch's
/// PowerSGDState.
///
/// Thread-safety: a value; copies are independent.
struct PowerSgdOptions {
  /// How many columns the factors have; at most as many as the matrix has rows or columns. 1 to 4
  /// is usual. At least 1.
  TORCH_ARG(std::int64_t, matrix_approximation_rank) = 1;
  /// Backwards before this one send their gradients whole. The beginning of a training is sensitive
  /// to inexact gradients; a tenth of all steps is usual. At least 0; 0 and 1 are allowed with
  /// error feedback and warm start, other than in PyTorch.
  TORCH_ARG(std::uint64_t, start_iteration) = 1000;
  /// A matrix of n x m is compressed if (n + m) * rank * this < n * m; otherwise it travels whole.
  /// Positive.
  TORCH_ARG(double, min_compression_rate) = 2;
  /// Whether each rank adds what compression left out of its gradients to the next ones.
  TORCH_ARG(bool, use_error_feedback) = true;
  /// Whether a step begins with the factor of the one before, instead of a random one.
  TORCH_ARG(bool, warm_start) = true;
  /// Added to the length by which a column is divided. Columns of zeros need none: they stay zeros.
  /// At least 0.
  TORCH_ARG(double, orthogonalization_epsilon) = 0;
  /// Decides the random factors.
  TORCH_ARG(std::uint64_t, random_seed) = 0;
};

}  // namespace lockstep::hooks
