// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/optim/adamw.h>

#include <memory>

#include "optim/adam_rule.h"
#include "optim/option_checks.h"

namespace lockstep::optim {
namespace {

AdamRule rule_of_adamw(const torch::optim::OptimizerOptions& options) {
  return adam_rule(options_of<AdamWOptions>(options, "AdamW"), true);
}

}  // namespace

AdamW::AdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups, AdamWOptions defaults)
    : Optimizer(groups, std::make_unique<AdamWOptions>(std::move(defaults))) {
  check_groups();
}

void AdamW::check(const torch::optim::OptimizerOptions& options) const {
  check_adam(rule_of_adamw(options), "AdamW");
}

StateForm AdamW::state_form(const torch::optim::OptimizerOptions& options) const {
  return adam_state_form(rule_of_adamw(options));
}

void AdamW::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  update_adam(rule_of_adamw(options), list);
}

void AdamW::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  visit_adam(options_of<AdamWOptions>(options, "AdamW"), true, visitor);
}

}  // namespace lockstep::optim
