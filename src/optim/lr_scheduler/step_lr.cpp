// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/step_lr.h>

#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {

StepLR::StepLR(const ScheduledOptimizer& optimizer, std::int64_t step_size, double gamma,
               std::int64_t last_epoch)
    : EpochLR("StepLR", optimizer, last_epoch), step_size_(step_size), gamma_(gamma) {
  StepLR::check();
  initial_step();
}

void StepLR::check() const {
  TORCH_CHECK(step_size_ != 0,
              "StepLR: step_size is 0; expected the number of epochs after which the "
              "rate changes");
  check_size(name(), "step_size", step_size_);
}

std::vector<double> StepLR::get_lr() {
  if (last_epoch() == 0 || floor_modulo(last_epoch(), step_size_) != 0) return group_rates();
  return group_rates_times(gamma_);
}

std::optional<std::vector<double>> StepLR::closed_form_lr() {
  auto rates = base_lrs();
  const double factor = power(gamma_, real(floor_quotient(last_epoch(), step_size_)), name());
  for (double& rate : rates) rate *= factor;
  return rates;
}

void StepLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("step_size", step_size_);
  fields.number("gamma", gamma_);
}

MultiStepLR::MultiStepLR(const ScheduledOptimizer& optimizer,
                         const std::vector<std::int64_t>& milestones, double gamma,
                         std::int64_t last_epoch)
    : EpochLR("MultiStepLR", optimizer, last_epoch), gamma_(gamma) {
  for (const auto milestone : milestones) ++milestones_[milestone];
  initial_step();
}

std::vector<double> MultiStepLR::get_lr() {
  const auto milestone = milestones_.find(last_epoch());
  if (milestone == milestones_.end()) return group_rates();
  return group_rates_times(power(gamma_, real(milestone->second), name()));
}

std::optional<std::vector<double>> MultiStepLR::closed_form_lr() {
  std::int64_t passed = 0;
  for (const auto& [milestone, count] : milestones_) {
    if (milestone <= last_epoch()) passed += count;
  }
  auto rates = base_lrs();
  for (double& rate : rates) rate *= power(gamma_, real(passed), name());
  return rates;
}

void MultiStepLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.counts("milestones", milestones_);
  fields.number("gamma", gamma_);
}

}  // namespace lockstep::optim::lr_scheduler
