// SPDX-License-Identifier: BSD-3-Clause
#include "recipe.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <utility>

namespace example {
namespace {

constexpr double kFirstShare = 0.01;  // of the highest rate, in step 0
constexpr double kLastShare = 0.1;    // after the last step

}  // namespace

torch::optim::AdamW make_optimizer(const torch::nn::Module& net, const Recipe& recipe) {
  const auto defaults = torch::optim::AdamWOptions(recipe.learning_rate()).betas({0.9, 0.99});
  const auto group_of = [&](std::vector<torch::Tensor> parameters, double weight_decay) {
    auto options = std::make_unique<torch::optim::AdamWOptions>(defaults);
    options->weight_decay(weight_decay);
    return torch::optim::OptimizerParamGroup(std::move(parameters), std::move(options));
  };
  std::vector<torch::Tensor> matrices, vectors;
  for (auto& parameter : net.parameters()) {
    (parameter.dim() > 1 ? matrices : vectors).push_back(parameter);
  }
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.push_back(group_of(std::move(matrices), recipe.weight_decay()));
  groups.push_back(group_of(std::move(vectors), 0.0));
  return torch::optim::AdamW(std::move(groups), defaults);
}

double learning_rate_at(int64_t step, const Recipe& recipe) {
  const auto peak = recipe.learning_rate();
  if (step < recipe.warmup()) {
    const double passed = static_cast<double>(step) / static_cast<double>(recipe.warmup());
    return peak * (kFirstShare + (1 - kFirstShare) * passed);
  }
  const double passed = static_cast<double>(step - recipe.warmup()) /
                        static_cast<double>(std::max<int64_t>(1, recipe.steps() - recipe.warmup()));
  const double last = kLastShare * peak;
  return last + (peak - last) * 0.5 * (1 + std::cos(std::numbers::pi * passed));
}

void set_learning_rate(torch::optim::Optimizer& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(rate);
}

}  // namespace example
