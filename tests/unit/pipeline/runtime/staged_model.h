// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/pipeline.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "support/small_nets.h"

namespace lockstep::testing {

/// A language model of any number of stages, whose weights are a formula of the stage's number: an
/// embedding in the first stage, the classes in the last one, and a block in each.
struct ModelStageImpl : torch::nn::Module {
  static constexpr std::int64_t kTokens = 11, kWidth = 8, kClasses = 5;

  ModelStageImpl(std::int64_t number, std::int64_t count, torch::ScalarType dtype,
                 bool recomputes = false)
      : recomputes_(recomputes) {
    if (number == 0)
      embedding = register_module("embedding", torch::nn::Embedding(kTokens, kWidth));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    up = register_module("up", torch::nn::Linear(kWidth, 2 * kWidth));
    down = register_module("down", torch::nn::Linear(2 * kWidth, kWidth));
    scale = register_parameter("scale", torch::ones({kWidth}));
    if (number == count - 1) head = register_module("head", torch::nn::Linear(kWidth, kClasses));
    fill_parameters(*this, 10.0 * static_cast<double>(number) + 1);
    to(dtype);
  }

  torch::Tensor forward(torch::Tensor x) {
    if (embedding) x = embedding(x);
    const auto block = [this](const torch::Tensor& in) {
      return in + down(torch::gelu(up(norm(in)))) * scale;
    };
    x = recomputes_ ? checkpoint(block, x) : block(x);
    return head ? head(x.mean(1)) : x;
  }

  torch::nn::Embedding embedding{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear up{nullptr}, down{nullptr}, head{nullptr};
  torch::Tensor scale;

 private:
  bool recomputes_;
};
TORCH_MODULE(ModelStage);

inline torch::Tensor make_tokens(std::int64_t rows, std::int64_t seed = 0) {
  const auto places = torch::arange(rows * 4, torch::kLong);
  return (places * places + 3 * places + seed).remainder(ModelStageImpl::kTokens).view({rows, 4});
}
inline torch::Tensor make_classes(std::int64_t rows, std::int64_t seed = 0) {
  return (torch::arange(rows, torch::kLong) * 3 + seed).remainder(ModelStageImpl::kClasses);
}
inline torch::Tensor token_loss(const torch::Tensor& output, const torch::Tensor& target) {
  return torch::nn::functional::cross_entropy(output.to(torch::kFloat), target);
}

using NamedGradients = std::map<std::string, torch::Tensor>;

/// Copies, under the names of the stage's parameters.
template <typename Holder>
void collect_gradients(NamedGradients& into, std::int64_t stage, const Holder& net) {
  for (const auto& item : net->named_parameters()) {
    const auto& gradient = item.value().grad();
    into[std::to_string(stage) + "." + item.key()] =
        gradient.defined() ? gradient.clone() : torch::Tensor();
  }
}

/// The whole model in one process, with the same microbatches in the same order.
struct Unsplit {
  std::vector<torch::Tensor> losses;
  NamedGradients gradients;
};
inline Unsplit train_unsplit(std::int64_t stages, std::int64_t microbatches,
                             torch::ScalarType dtype, const torch::Tensor& data,
                             const torch::Tensor& target, int steps = 1) {
  std::vector<ModelStage> nets;
  for (std::int64_t i = 0; i < stages; ++i) nets.emplace_back(i, stages, dtype);
  Unsplit unsplit;
  for (int step = 0; step < steps; ++step) {
    const auto inputs = torch::tensor_split(data, microbatches, 0);
    const auto targets = torch::tensor_split(target, microbatches, 0);
    unsplit.losses.clear();
    for (auto& net : nets) net->zero_grad();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      torch::Tensor x = inputs[i];
      for (auto& net : nets) x = net(x);
      const auto loss = token_loss(x, targets[i]);
      loss.backward();
      unsplit.losses.push_back(loss.detach());
    }
  }
  for (std::size_t i = 0; i < nets.size(); ++i) {
    for (auto& parameter : nets[i]->parameters()) {
      if (parameter.grad().defined()) parameter.mutable_grad().div_(microbatches);
    }
    collect_gradients(unsplit.gradients, static_cast<std::int64_t>(i), nets[i]);
  }
  return unsplit;
}

/// The stages that this rank has.
inline std::vector<ModelStage> make_stages(const pipeline::Plan& plan, int rank,
                                           torch::ScalarType dtype = torch::kFloat,
                                           bool recomputes = false) {
  std::vector<ModelStage> nets;
  for (const auto number : plan.stages_of(rank)) {
    nets.emplace_back(number, plan.stages(), dtype, recomputes);
  }
  return nets;
}

/// Bitwise.
inline void expect_gradients(const NamedGradients& expected, const NamedGradients& found) {
  EXPECT_FALSE(found.empty());
  for (const auto& [name, gradient] : found) {
    const auto& other = expected.at(name);
    ASSERT_EQ(gradient.defined(), other.defined()) << name;
    if (gradient.defined()) {
      EXPECT_TRUE(torch::equal(gradient, other)) << name << '\n' << gradient << '\n' << other;
    }
  }
}

}  // namespace lockstep::testing
