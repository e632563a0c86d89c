// SPDX-License-Identifier: BSD-3-Clause
#include "optim/lr_scheduler/momentum.h"

#include <c10/util/Exception.h>
#include <lockstep/optim/momentum_options.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cstddef>
#include <tuple>

namespace lockstep::optim::lr_scheduler {
namespace {

using torch::optim::OptimizerOptions;

/// What may be called momentum in the options of a group; two of the three are null, or all.
struct Momentum {
  double* value = nullptr;
  std::tuple<double, double>* betas = nullptr;
  MomentumOptions* own = nullptr;

  [[nodiscard]] bool is_there() const {
    return value != nullptr || betas != nullptr || own != nullptr;
  }
};

Momentum momentum_in(OptimizerOptions& options) {
  Momentum found;
  if (auto* own = dynamic_cast<MomentumOptions*>(&options)) {
    found.own = own;
  } else if (auto* sgd = dynamic_cast<torch::optim::SGDOptions*>(&options)) {
    found.value = &sgd->momentum();
  } else if (auto* rmsprop = dynamic_cast<torch::optim::RMSpropOptions*>(&options)) {
    found.value = &rmsprop->momentum();
  } else if (auto* adam = dynamic_cast<torch::optim::AdamOptions*>(&options)) {
    found.betas = &adam->betas();
  } else if (auto* adamw = dynamic_cast<torch::optim::AdamWOptions*>(&options)) {
    found.betas = &adamw->betas();
  }
  return found;
}

/// For those who read.
Momentum momentum_in(const OptimizerOptions& options) {
  return momentum_in(const_cast<OptimizerOptions&>(options));
}

}  // namespace

bool uses_beta1(const char* schedule, const torch::optim::Optimizer& optimizer) {
  bool is_beta1 = false;
  for (const auto& group : optimizer.param_groups()) {
    const auto found = momentum_in(group.options());
    TORCH_CHECK(
        found.is_there(), schedule,
        ": optimizer must support momentum or beta1 with the option cycle_momentum; this one "
        "has neither, so set cycle_momentum(false)");
    is_beta1 = found.betas != nullptr || (found.own != nullptr && found.own->is_beta1());
  }
  return is_beta1;
}

std::vector<double> group_momentum(const torch::optim::Optimizer& optimizer) {
  std::vector<double> all;
  for (const auto& group : optimizer.param_groups()) {
    const auto found = momentum_in(group.options());
    all.push_back(found.value != nullptr   ? *found.value
                  : found.betas != nullptr ? std::get<0>(*found.betas)
                                           : found.own->get_momentum());
  }
  return all;
}

void set_group_momentum(torch::optim::Optimizer& optimizer, const std::vector<double>& momentum) {
  auto& groups = optimizer.param_groups();
  TORCH_CHECK(momentum.size() == groups.size(), "the schedule was made for ", momentum.size(),
              " parameter groups; the optimizer has ", groups.size(), " now");
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto found = momentum_in(groups[i].options());
    if (found.value != nullptr) {
      *found.value = momentum[i];
    } else if (found.betas != nullptr) {
      std::get<0>(*found.betas) = momentum[i];
    } else {
      found.own->set_momentum(momentum[i]);
    }
  }
}

}  // namespace lockstep::optim::lr_scheduler
