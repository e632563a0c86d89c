// SPDX-License-Identifier: BSD-3-Clause
// ATen's way would be two passes, one of them over operands spread over the channels, and for
// 16-bit values copies in float of both.
#include "parallel/batch_norm/channel_kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cstdint>

namespace lockstep {
namespace {

template <typename Value>
struct Operands {
  using Sum = at::opmath_type<Value>;
  const Value* first;
  const Value* second;
  Value* result;
  const Sum* of_first;
  const Sum* of_second;
  const Sum* shift;
};

/// Lines of values of one channel each.
template <typename Value>
void combine_lines(const Operands<Value>& o, std::int64_t channels, std::int64_t length,
                   std::int64_t begin, std::int64_t end) {
  using Sum = typename Operands<Value>::Sum;
  for (std::int64_t line = begin; line < end; ++line) {
    const auto channel = line % channels;
    const Sum of_first = o.of_first[channel];
    const Sum of_second = o.of_second[channel];
    const Sum shift = o.shift[channel];
    const Value* const first = o.first + line * length;
    const Value* const second = o.second + line * length;
    Value* const result = o.result + line * length;
    for (std::int64_t i = 0; i < length; ++i) {
      result[i] = static_cast<Value>(static_cast<Sum>(first[i]) * of_first +
                                     static_cast<Sum>(second[i]) * of_second + shift);
    }
  }
}

/// Lines with one value of each channel.
template <typename Value>
void combine_across(const Operands<Value>& o, std::int64_t channels, std::int64_t begin,
                    std::int64_t end) {
  using Sum = typename Operands<Value>::Sum;
  for (std::int64_t line = begin; line < end; ++line) {
    const Value* const first = o.first + line * channels;
    const Value* const second = o.second + line * channels;
    Value* const result = o.result + line * channels;
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      result[channel] = static_cast<Value>(
          static_cast<Sum>(first[channel]) * o.of_first[channel] +
          static_cast<Sum>(second[channel]) * o.of_second[channel] + o.shift[channel]);
    }
  }
}

template <typename Value>
void combine(const Operands<Value>& operands, const at::Tensor& shape) {
  constexpr std::int64_t kGrain = 32768;  // values that are worth a thread
  const auto channels = shape.size(1);
  const auto length = shape.numel() / (shape.size(0) * channels);
  const bool is_across = length == 1 || !shape.is_contiguous();
  const auto line_length = is_across ? channels : length;
  const auto grain = std::max<std::int64_t>(1, kGrain / line_length);
  at::parallel_for(0, shape.numel() / line_length, grain,
                   [&](std::int64_t begin, std::int64_t end) {
                     if (is_across) {
                       combine_across(operands, channels, begin, end);
                     } else {
                       combine_lines(operands, channels, length, begin, end);
                     }
                   });
}

}  // namespace

at::Tensor combine_channels(const at::Tensor& first, const at::Tensor& second,
                            const ChannelFactors& factors) {
  const at::Tensor result = at::empty_like(second);
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, second.scalar_type(), "combine_channels", [&] {
        using Sum = at::opmath_type<scalar_t>;
        combine<scalar_t>(
            {first.const_data_ptr<scalar_t>(), second.const_data_ptr<scalar_t>(),
             result.mutable_data_ptr<scalar_t>(), factors.of_first.const_data_ptr<Sum>(),
             factors.of_second.const_data_ptr<Sum>(), factors.shift.const_data_ptr<Sum>()},
            second);
      });
  return result;
}

}  // namespace lockstep
