// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstdint>

namespace lockstep {

/// Mean and variance of each channel of the global batch, in the dtype in which sums over a batch
/// are kept.
struct BatchStatistics {
  at::Tensor mean;
  at::Tensor variance;  // the mean square, not yet unbiased
  at::Tensor counts;    // Int, on every rank: values a channel on each
};

/// Values a channel in this rank's input of (N, C, ...).
[[nodiscard]] std::int64_t values_per_channel(const at::Tensor& input);

/// The dtype in which sums over values of `dtype` are kept: Float for the 16-bit ones.
[[nodiscard]] at::ScalarType accumulation_dtype(at::ScalarType dtype);

/// The global batch's statistics, the same bits on all ranks. A batch without any value gives NaN.
///
/// Blocks: the calling thread. Collective: one `all_gather`.
[[nodiscard]] BatchStatistics join_statistics(const at::Tensor& input, ProcessGroup& group);

/// Mean and variance of one batch made of several. Functions get them as `rows`, one for each
/// batch, of 2 C + 1 doubles: means, sums of squared deviations from the means, and a count.
struct Moments {
  at::Tensor mean;
  at::Tensor variance;
};
/// Adds row after row on the CPU, so that the bits depend on nothing but the values.
[[nodiscard]] Moments combine_in_order(const at::Tensor& rows);
/// Combines all rows in a few kernels, in an order of the device's, without waiting for the device.
[[nodiscard]] Moments combine_on_device(const at::Tensor& rows);

}  // namespace lockstep
