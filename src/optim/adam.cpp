// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/optim/adam.h>

#include <memory>

#include "optim/adam_rule.h"
#include "optim/option_checks.h"

namespace lockstep::optim {
namespace {

AdamRule rule_of_adam(const torch::optim::OptimizerOptions& options) {
  return adam_rule(options_of<AdamOptions>(options, "Adam"), false);
}

}  // namespace

Adam::Adam(const std::vector<torch::optim::OptimizerParamGroup>& groups, AdamOptions defaults)
    : Optimizer(groups, std::make_unique<AdamOptions>(std::move(defaults))) {
  check_groups();
}

void Adam::check(const torch::optim::OptimizerOptions& options) const {
  check_adam(rule_of_adam(options), "Adam");
}

StateForm Adam::state_form(const torch::optim::OptimizerOptions& options) const {
  return adam_state_form(rule_of_adam(options));
}

void Adam::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  update_adam(rule_of_adam(options), list);
}

void Adam::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  visit_adam(options_of<AdamOptions>(options, "Adam"), false, visitor);
}

}  // namespace lockstep::optim
