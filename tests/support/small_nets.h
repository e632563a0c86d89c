// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace lockstep::testing {

/// A convolution net without batch norm, so that the mean over ranks is the gradient of the joined
/// batch.
struct ConvNetImpl : torch::nn::Module {
  ConvNetImpl() {
    conv1 =
        register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 4, 3).padding(1)));
    conv2 =
        register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 6, 3).stride(2)));
    fc = register_module("fc", torch::nn::Linear(6 * 3 * 3, 5));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(conv1(x));
    x = torch::tanh(conv2(x));
    return fc(x.flatten(1));
  }

  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(ConvNet);

/// A backward within its backward gives the weight a second gradient, behind its first one.
struct TwiceUsedImpl : torch::nn::Module {
  TwiceUsedImpl() {
    first = register_parameter("first", torch::ones({1}));
    weight = register_parameter("weight", torch::ones({3}));
  }
  torch::Tensor forward(double scale) {
    const auto hidden = first * 1;
    hidden.register_hook([this, scale](const torch::Tensor&) {
      const torch::AutoGradMode with_gradients(true);
      (weight * (10 * scale)).sum().backward();
    });
    return hidden.sum() + (weight * scale).sum();
  }
  torch::Tensor first, weight;
};
TORCH_MODULE(TwiceUsed);

/// Weights by formula: the same wherever they are made, without touching the global generator.
inline void fill_parameters(torch::nn::Module& module, double phase = 0) {
  const torch::NoGradGuard no_grad;
  double start = phase;
  for (auto& parameter : module.parameters()) {
    const auto places = torch::arange(parameter.numel(), torch::kDouble);
    parameter.copy_((torch::sin(places * 0.7 + start) * 0.3).view(parameter.sizes()));
    start += 1;
  }
}

inline torch::Tensor make_input(std::int64_t step, std::int64_t samples) {
  const auto places = torch::arange(samples * 2 * 7 * 7, torch::kDouble);
  return torch::sin(places * 0.11 + static_cast<double>(step))
      .view({samples, 2, 7, 7})
      .to(torch::kFloat);
}

inline torch::Tensor make_target(std::int64_t step, std::int64_t samples) {
  return (torch::arange(samples, torch::kLong) * 3 + step).remainder(5);
}

/// The part of a global batch that falls to one rank.
inline torch::Tensor share(const torch::Tensor& joined, int rank, int world_size) {
  const auto samples = joined.size(0) / world_size;
  return joined.narrow(0, rank * samples, samples);
}

template <typename Model>
torch::Tensor flat_parameters(Model& model) {
  std::vector<torch::Tensor> parts;
  for (const auto& parameter : model->parameters()) parts.push_back(parameter.detach().flatten());
  return torch::cat(parts).clone();
}

/// SGD with momentum on batches that are the joined ones, or a rank's share of them.
template <typename Model>
void train(Model& model, int steps, int rank, int world_size, std::int64_t joined_samples = 12) {
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    const auto output = model->forward(share(make_input(step, joined_samples), rank, world_size));
    const auto target = share(make_target(step, joined_samples), rank, world_size);
    torch::nn::functional::cross_entropy(output, target).backward();
    optimizer.step();
  }
}

}  // namespace lockstep::testing
