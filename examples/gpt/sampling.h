// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"

#include <cstdint>
#include <string>

namespace example {

/// How a text goes on.
struct SamplingOptions {
  /// Tokens to add.
  TORCH_ARG(int64_t, length) = 200;
  /// Below 1, likely tokens become more likely.
  TORCH_ARG(double, temperature) = 0.8;
  /// Only so many of the likeliest tokens are drawn from.
  TORCH_ARG(int64_t, top_k) = 40;
  /// Of what is drawn. No other random numbers are used, so that samples leave a training as it is.
  TORCH_ARG(std::uint64_t, seed) = 0;
};

/// Tokens that go on with `prompt`, behind it. Leaves `net` in evaluation mode.
///
/// Shapes: `prompt` int64 [T], the result int64 [T + length].
/// Throws: `c10::Error` for an empty prompt.
[[nodiscard]] torch::Tensor sample_tokens(Gpt& net, const torch::Tensor& prompt,
                                          const SamplingOptions& options);

/// The same for a model whose tokens are bytes. What a terminal would obey, and bytes that are no
/// ASCII, are shown as `?`.
[[nodiscard]] std::string sample_text(Gpt& net, const std::string& prompt,
                                      const SamplingOptions& options);

}  // namespace example
