// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/adamw.h>
#include <lockstep/optim/lr_scheduler.h>
#include <torch/torch.h>

#include <cstdint>
#include <memory>

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
[[nodiscard]] lockstep::optim::AdamW make_optimizer(const torch::nn::Module& net,
                                                    const Recipe& recipe);

/// The rate climbs in a straight line, then falls along half a cosine. `step()` comes after each
/// step of the optimizer.
[[nodiscard]] std::unique_ptr<lockstep::optim::lr_scheduler::LRScheduler> make_schedule(
    torch::optim::Optimizer& optimizer, const Recipe& recipe);

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
