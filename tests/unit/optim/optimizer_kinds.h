// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::optim::testing {

/// One of the optimizers, with options that need all of its state.
struct OptimizerForTest {
  std::string name;
  std::function<std::unique_ptr<Optimizer>(std::vector<torch::Tensor>)> make;
};

template <class Kind, class Options>
OptimizerForTest kind_for_test(const std::string& name, const Options& options) {
  return {name, [options](std::vector<torch::Tensor> parameters) {
            return std::make_unique<Kind>(std::move(parameters), options);
          }};
}

inline std::vector<OptimizerForTest> optimizers_for_test() {
  return {
      kind_for_test<SGD>("SGD", SGDOptions(0.1)),
      kind_for_test<SGD>("SGDWithMomentum",
                         SGDOptions(0.1).momentum(0.9).dampening(0.5).weight_decay(0.01)),
      kind_for_test<SGD>(
          "SGDLoop", SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(0.01).fused(false)),
      kind_for_test<Adam>("Adam", AdamOptions(0.01).weight_decay(0.01)),
      kind_for_test<Adam>("AdamLoop", AdamOptions(0.01).amsgrad(true).fused(false)),
      kind_for_test<AdamW>("AdamW", AdamWOptions(0.01).amsgrad(true)),
      kind_for_test<RMSprop>("RMSprop", RMSpropOptions(0.01).momentum(0.9).centered(true)),
      kind_for_test<Adagrad>("Adagrad", AdagradOptions(0.1).initial_accumulator_value(0.1)),
      kind_for_test<Adagrad>("AdagradLoop", AdagradOptions(0.1).lr_decay(0.1).fused(false)),
      kind_for_test<LAMB>("LAMB", LAMBOptions(0.01)),
      kind_for_test<LARS>("LARS", LARSOptions(0.1).momentum(0.9).weight_decay(0.01)),
      kind_for_test<Muon>("Muon", MuonOptions(0.02)),
  };
}

inline torch::Tensor values(torch::IntArrayRef shape, double start) {
  std::int64_t elements = 1;
  for (const auto size : shape) elements *= size;
  return torch::arange(elements, torch::kDouble)
      .mul(0.7)
      .add(start)
      .sin()
      .reshape(shape)
      .to(torch::kFloat);
}

/// A parameter, with a gradient that `set_gradient` gives it.
inline torch::Tensor parameter_of(const torch::Tensor& value) {
  return value.detach().clone().requires_grad_();
}

inline void set_gradient(const torch::Tensor& parameter, int step) {
  parameter.mutable_grad() =
      values(parameter.sizes(), 1.3 * step + 0.2).to(parameter.scalar_type());
}

inline void make_steps(torch::optim::Optimizer& optimizer, int first, int last) {
  for (int step = first; step < last; ++step) {
    for (auto& group : optimizer.param_groups()) {
      for (const auto& parameter : group.params()) set_gradient(parameter, step);
    }
    optimizer.step();
  }
}

}  // namespace lockstep::optim::testing
