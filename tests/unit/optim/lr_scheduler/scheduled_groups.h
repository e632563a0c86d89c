// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/lr_scheduler.h>
#include <torch/torch.h>

#include <memory>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// One group a rate, each with one parameter.
template <class Options>
std::vector<torch::optim::OptimizerParamGroup> groups_of(const std::vector<double>& rates,
                                                         const Options& options) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const double rate : rates) {
    auto own = std::make_unique<Options>(options);
    own->lr(rate);
    groups.emplace_back(std::vector<torch::Tensor>{torch::zeros({1})}, std::move(own));
  }
  return groups;
}

/// SGD with momentum 0.5 and these rates.
inline std::unique_ptr<torch::optim::SGD> sgd(const std::vector<double>& rates) {
  const auto options = torch::optim::SGDOptions(1.0).momentum(0.5);
  return std::make_unique<torch::optim::SGD>(groups_of(rates, options), options);
}

/// The rates of the optimizer now.
inline std::vector<double> rates_of(const torch::optim::Optimizer& optimizer) {
  std::vector<double> rates;
  for (const auto& group : optimizer.param_groups()) rates.push_back(group.options().get_lr());
  return rates;
}

/// The rate of the only group after construction and each of some steps.
inline std::vector<double> rates_over(LRScheduler& schedule, int steps) {
  std::vector<double> rates = schedule.get_last_lr();
  for (int i = 0; i < steps; ++i) {
    schedule.step();
    rates.push_back(schedule.get_last_lr().at(0));
  }
  return rates;
}

}  // namespace lockstep::optim::lr_scheduler
