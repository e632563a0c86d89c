// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstdint>

namespace lockstep {

/// Mean and variance of each channel of the joined batch, in the dtype in which sums over a batch
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

/// The joined batch's statistics, the same bits on all ranks. A batch without any value gives NaN.
///
/// Collective: one `all_gather`. Blocks: the calling thread.
[[nodiscard]] BatchStatistics join_statistics(const at::Tensor& input, ProcessGroup& group);

/// Of one batch made of several: `rows` has one for each, of 2 C + 1 doubles: means, sums of
/// squared deviations from them, count.
struct Moments {
  at::Tensor mean;
  at::Tensor variance;
};
/// Adds row after row, so that the bits depend on nothing but the values. CPU.
[[nodiscard]] Moments combine_in_order(const at::Tensor& rows);
/// In a few kernels for all rows, without waiting for the device. The order is the device's.
[[nodiscard]] Moments combine_on_device(const at::Tensor& rows);

}  // namespace lockstep
