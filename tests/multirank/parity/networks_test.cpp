// SPDX-License-Identifier: BSD-3-Clause
// Networks, under DDP's defaults and SGD with momentum.
#include "multirank/parity/parity_case.h"

namespace lockstep::testing::parity {
namespace {

// Python's MultiheadAttention calls scaled_dot_product_attention, LibTorch's the two products and
// the softmax: sums of at most 16 terms in another order, here and in everything behind them.
constexpr Precision kOtherAttention{.own = 8};

std::vector<Case> network_cases() {
  return {
      {.name = "mlp", .net = mlp},
      {.name = "layer_norm", .net = layer_norm},
      {.name = "convolutional", .net = convolutional},
      {.name = "depthwise", .net = depthwise},
      {.name = "group_norm", .net = group_norm},
      {.name = "batch_norm_local", .net = batch_norm},
      {.name = "transformer", .net = transformer, .precision = kOtherAttention},
      {.name = "transformer_adamw",
       .net = transformer,
       .optimizer = adamw(),
       .precision = kOtherAttention},
      {.name = "lstm", .net = lstm},
      {.name = "gru", .net = gru},
      {.name = "embedding", .net = bag_of_words},
      {.name = "embedding_sparse",
       .net = sparse_bag_of_words,
       .optimizer = plain_sgd(),
       .precision = kRepeatedRows},
      {.name = "tied", .net = tied},
      {.name = "complex", .net = complex_net},
      {.name = "two_dtypes", .net = two_dtypes},
      {.name = "odd_shapes", .net = odd_shapes},
  };
}

LOCKSTEP_PARITY_CASES(Networks, network_cases());

}  // namespace
}  // namespace lockstep::testing::parity
