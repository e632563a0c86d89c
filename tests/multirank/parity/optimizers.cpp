// SPDX-License-Identifier: BSD-3-Clause
// The optimizers of tests/python/ddp_cases.py.
#include "multirank/parity/parity_case.h"

namespace lockstep::testing::parity {
namespace {

template <typename Kind, typename Options>
Optimizer optimizer(const Options& options, double gain) {
  return {[options](std::vector<torch::Tensor> parameters) {
            return std::make_unique<Kind>(std::move(parameters), options);
          },
          gain};
}

// With eps, a step is lr m / (sqrt(v) + eps), m and v being means of gradients and their squares. A
// change d of a gradient changes m by d at most, and sqrt(v) by d at most (Cauchy-Schwarz); in ten
// steps m is at most 1.2 sqrt(v). So the step changes by less than 3 lr d / eps. With the usual eps
// of 1e-8 that would allow anything: gradients that are rounding errors move parameters as far as
// large ones.
constexpr double kAdamRate = 0.01;
constexpr double kAdamEpsilon = 1e-2;
constexpr double kAdamGain = 3 * kAdamRate / kAdamEpsilon;

}  // namespace

// A gradient moves the parameter by lr in its own step, by lr m in the next, ...
Optimizer sgd() {
  return optimizer<torch::optim::SGD>(torch::optim::SGDOptions(0.05).momentum(0.9), 0.05 / 0.1);
}

Optimizer nesterov() {
  return optimizer<torch::optim::SGD>(
      torch::optim::SGDOptions(0.05).momentum(0.9).nesterov(true).weight_decay(0.01), 0.05 / 0.1);
}

Optimizer plain_sgd() {
  return optimizer<torch::optim::SGD>(torch::optim::SGDOptions(0.2), 0.2);
}

Optimizer adam() {
  return optimizer<torch::optim::Adam>(torch::optim::AdamOptions(kAdamRate).eps(kAdamEpsilon),
                                       kAdamGain);
}

Optimizer adamw() {
  return optimizer<torch::optim::AdamW>(
      torch::optim::AdamWOptions(kAdamRate).eps(kAdamEpsilon).weight_decay(0.1), kAdamGain);
}

}  // namespace lockstep::testing::parity
