// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/batch_norm/batch_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <tuple>

namespace lockstep {
namespace {

/// Mean and variance of each channel of this rank's values, in one call that has a kernel for every
/// memory format and device.
std::tuple<at::Tensor, at::Tensor> own_statistics(const at::Tensor& input) {
  const auto options = input.options().dtype(accumulation_dtype(input.scalar_type()));
  if (input.numel() == 0) {
    return {at::zeros({input.size(1)}, options), at::zeros({input.size(1)}, options)};
  }
  // The dtype of running statistics is that of the result: without these, statistics of 16-bit
  // inputs would be rounded to 16 bits on the CPU.
  const at::Tensor unused_mean = at::zeros({input.size(1)}, options);
  const at::Tensor unused_variance = at::ones({input.size(1)}, options);
  return at::batch_norm_update_stats(input, unused_mean, unused_variance, /*momentum=*/0.0);
}

// One row a rank: means, sums of squared deviations, count.
at::Tensor gather(const at::Tensor& mean, const at::Tensor& variance, std::int64_t count,
                  ProcessGroup& group) {
  const auto channels = mean.size(0);
  // Counts beyond 2^24 are not exact in float; a row is short, so all of it is double.
  const auto options = mean.options().dtype(at::kDouble);
  const at::Tensor own = at::empty({2 * channels + 1}, options);
  own.narrow(0, 0, channels).copy_(mean);
  own.narrow(0, channels, channels).copy_(variance).mul_(count);
  own.narrow(0, 2 * channels, 1).fill_(count);
  const at::Tensor rows = at::empty({group.size(), 2 * channels + 1}, options);
  const auto scope = group.with(CallOptions().name("SyncBatchNorm forward"));
  group.all_gather(rows, own).wait();
  return rows;
}

std::int64_t channels_of(const at::Tensor& rows) {
  return (rows.size(1) - 1) / 2;
}

}  // namespace

std::int64_t values_per_channel(const at::Tensor& input) {
  std::int64_t values = input.size(0);
  for (const auto size : input.sizes().slice(2)) values *= size;
  return values;
}

at::ScalarType accumulation_dtype(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
}

BatchStatistics join_statistics(const at::Tensor& input, ProcessGroup& group) {
  const auto [own_mean, own_variance] = own_statistics(input);
  const at::Tensor rows = gather(own_mean, own_variance, values_per_channel(input), group);
  const Moments joined = rows.is_cpu() ? combine_in_order(rows) : combine_on_device(rows);
  const auto dtype = own_mean.scalar_type();
  return {joined.mean.to(dtype), joined.variance.to(dtype),
          rows.select(1, rows.size(1) - 1).to(at::kInt)};
}

// A sum of ATen's over the rows would go by the width of the machine's vectors.
Moments combine_in_order(const at::Tensor& rows) {
  const auto channels = channels_of(rows);
  const at::Tensor mean = at::zeros({channels}, rows.options());
  const at::Tensor squares = at::zeros({channels}, rows.options());
  auto* const means = mean.mutable_data_ptr<double>();
  auto* const sums = squares.mutable_data_ptr<double>();
  double total = 0;
  for (std::int64_t rank = 0; rank < rows.size(0); ++rank) {
    const double* const row = rows.const_data_ptr<double>() + rank * (2 * channels + 1);
    const double count = row[2 * channels];
    if (count == 0) continue;
    const double share = count / (total + count);
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      const double delta = row[channel] - means[channel];
      means[channel] += delta * share;
      sums[channel] += row[channels + channel] + delta * delta * total * share;
    }
    total += count;
  }
  return {mean, squares.div_(total)};
}

Moments combine_on_device(const at::Tensor& rows) {
  const auto channels = channels_of(rows);
  const at::Tensor means = rows.narrow(1, 0, channels);
  const at::Tensor squares = rows.narrow(1, channels, channels);
  const at::Tensor counts = rows.narrow(1, 2 * channels, 1);
  const at::Tensor shares = counts / counts.sum();
  const at::Tensor mean = (means * shares).sum(0);
  const at::Tensor between = (means - mean).square_().mul_(counts);
  return {mean, (squares + between).sum(0).div_(counts.sum())};
}

}  // namespace lockstep
