// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "support/small_nets.h"

namespace gpu {

using lockstep::testing::fill_parameters;
using lockstep::testing::flat_parameters;
using lockstep::testing::TwiceUsed;

/// A convolution net without batch norm, so that averages over ranks are gradients of the joined
/// batch, with a layer that not every forward uses.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    namespace nn = torch::nn;
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
    second = register_module("second", nn::Conv2d(nn::Conv2dOptions(8, 16, 3).stride(2)));
    extra = register_module("extra", nn::Linear(16, 16));
    head = register_module("head", nn::Linear(16, 10));
  }
  torch::Tensor forward(const torch::Tensor& images, bool uses_extra = false) {
    auto x = torch::tanh(second(torch::relu(first(images)))).mean({2, 3});
    if (uses_extra) x = x + extra(x);
    return head(x);
  }
  torch::nn::Conv2d first{nullptr}, second{nullptr};
  torch::nn::Linear extra{nullptr}, head{nullptr};
};
TORCH_MODULE(Net);

inline torch::Tensor make_images(std::int64_t step, std::int64_t samples) {
  const auto places = torch::arange(samples * 3 * 9 * 9, torch::kDouble);
  return torch::sin(places * 0.11 + static_cast<double>(step))
      .view({samples, 3, 9, 9})
      .to(torch::kFloat);
}

inline torch::Tensor make_labels(std::int64_t step, std::int64_t samples) {
  return (torch::arange(samples, torch::kLong) * 3 + step).remainder(10);
}

inline torch::Tensor loss_of(const torch::Tensor& output, const torch::Tensor& target) {
  return torch::nn::functional::cross_entropy(output, target);
}

}  // namespace gpu
