// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace example {

/// How a language model is trained, apart from the data.
struct Recipe {
  /// Highest learning rate. The last one is a tenth of it.
  TORCH_ARG(double, learning_rate) = 1e-3;
  /// Steps in which the rate climbs, from a hundredth.
  TORCH_ARG(int64_t, warmup) = 100;
  /// Steps of the whole run.
  TORCH_ARG(int64_t, steps) = 2000;
  /// Of matrices and tables; biases and layer norms have none.
  TORCH_ARG(double, weight_decay) = 0.1;
  /// The gradients' norm is at most this.
  TORCH_ARG(double, clip) = 1.0;
};

/// AdamW with two groups of parameters: those with and those without weight decay.
[[nodiscard]] torch::optim::AdamW make_optimizer(const torch::nn::Module& net,
                                                 const Recipe& recipe);

/// The learning rate of step 0, 1, ...: a straight line, then half a cosine. These are the values
/// of PyTorch's `SequentialLR` of `LinearLR` and `CosineAnnealingLR`.
[[nodiscard]] double learning_rate_at(int64_t step, const Recipe& recipe);

/// Makes `rate` the learning rate of every parameter group.
void set_learning_rate(torch::optim::Optimizer& optimizer, double rate);

/// The mean loss of the tokens that follow.
///
/// Shapes: `tokens` and `targets` int64 [N, T].
template <typename Model>
[[nodiscard]] torch::Tensor loss_of(Model& model, const torch::Tensor& tokens,
                                    const torch::Tensor& targets) {
  const auto logits = model->forward(tokens);
  return torch::nn::functional::cross_entropy(logits.flatten(0, 1), targets.flatten());
}

}  // namespace example
