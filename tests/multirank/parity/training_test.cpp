// SPDX-License-Identifier: BSD-3-Clause
// Optimizers, dtypes, layouts, and what becomes of gradients on their way.
#include "multirank/parity/parity_case.h"

namespace lockstep::testing::parity {
namespace {

using Options = DistributedDataParallelOptions;

constexpr double kHalfEpsilon = 1.0 / 1024;
constexpr double kBFloat16Epsilon = 1.0 / 128;
constexpr Precision kHalf{.travelling_epsilon = kHalfEpsilon, .is_coarse = true};
constexpr Precision kBFloat16{.travelling_epsilon = kBFloat16Epsilon, .is_coarse = true};

// What PyTorch's fp16_compress_hook does, step by step.
Future<torch::Tensor> compress(ProcessGroup& group, const GradientBucketView& bucket) {
  const auto narrow = bucket.buffer().to(torch::kHalf).div_(group.size());
  return group.all_reduce(narrow).then(
      [narrow, wide = bucket.buffer()] { return wide.copy_(narrow); });
}

std::vector<Case> optimizers() {
  return {
      {.name = "mlp_nesterov_decay", .net = mlp, .optimizer = nesterov()},
      {.name = "mlp_adam", .net = mlp, .optimizer = adam()},
      {.name = "mlp_adamw", .net = mlp, .optimizer = adamw()},
      {.name = "mlp_clipped", .net = mlp, .max_norm = 0.5},
      {.name = "lstm_clipped_adam", .net = lstm, .optimizer = adam(), .max_norm = 0.1},
  };
}

std::vector<Case> kinds() {
  return {
      {.name = "mlp_double", .net = mlp, .dtype = torch::kDouble},
      {.name = "batch_norm_double", .net = batch_norm, .dtype = torch::kDouble},
      {.name = "mlp_bfloat16",
       .net = mlp,
       .dtype = torch::kBFloat16,
       .precision = {.is_coarse = true}},
      {.name = "convolutional_bfloat16",
       .net = convolutional,
       .dtype = torch::kBFloat16,
       .precision = {.is_coarse = true}},
      {.name = "convolutional_channels_last", .net = convolutional, .is_channels_last = true},
      // Lockstep's gradients are views of its buckets in any case.
      {.name = "mlp_bucket_view", .net = mlp},
  };
}

std::vector<Case> hooks() {
  return {
      {.name = "half_hook",
       .net = mlp,
       .options = Options().reduce_dtype(torch::kHalf),
       .precision = kHalf},
      {.name = "half_hook_by_hand",
       .net = mlp,
       .oracle = "half_hook",
       .hook = compress,
       .precision = kHalf},
      {.name = "half_hook_convolutional",
       .net = convolutional,
       .options = Options().reduce_dtype(torch::kHalf),
       .precision = kHalf},
      {.name = "bfloat16_hook",
       .net = mlp,
       .options = Options().reduce_dtype(torch::kBFloat16),
       .precision = kBFloat16},
  };
}

LOCKSTEP_PARITY_CASES(Optimizers, optimizers());
LOCKSTEP_PARITY_CASES(Kinds, kinds());
LOCKSTEP_PARITY_CASES(Hooks, hooks());

}  // namespace
}  // namespace lockstep::testing::parity
