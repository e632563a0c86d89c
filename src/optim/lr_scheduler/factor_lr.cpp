// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/factor_lr.h>

#include <algorithm>

#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {

ConstantLR::ConstantLR(const ScheduledOptimizer& optimizer, double factor, std::int64_t total_iters,
                       std::int64_t last_epoch)
    : EpochLR("ConstantLR", optimizer, last_epoch), factor_(factor), total_iters_(total_iters) {
  ConstantLR::check();
  initial_step();
}

void ConstantLR::check() const {
  TORCH_CHECK(!(factor_ > 1.0) && !(factor_ < 0), "ConstantLR: factor is ", factor_,
              "; the constant multiplicative factor is expected to be between 0 and 1");
  check_size(name(), "total_iters", total_iters_);
}

std::vector<double> ConstantLR::get_lr() {
  if (last_epoch() == 0) return group_rates_times(factor_);
  if (last_epoch() != total_iters_) return group_rates();
  return group_rates_times(quotient(1.0, factor_, "ConstantLR with a factor of 0"));
}

std::optional<std::vector<double>> ConstantLR::closed_form_lr() {
  const double is_over = last_epoch() >= total_iters_ ? 1.0 : 0.0;
  auto rates = base_lrs();
  for (double& rate : rates) rate *= factor_ + is_over * (1 - factor_);
  return rates;
}

void ConstantLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.number("factor", factor_);
  fields.integer("total_iters", total_iters_);
}

LinearLR::LinearLR(const ScheduledOptimizer& optimizer, double start_factor, double end_factor,
                   std::int64_t total_iters, std::int64_t last_epoch)
    : EpochLR("LinearLR", optimizer, last_epoch),
      start_factor_(start_factor),
      end_factor_(end_factor),
      total_iters_(total_iters) {
  LinearLR::check();
  initial_step();
}

void LinearLR::check() const {
  TORCH_CHECK(!(start_factor_ > 1.0) && !(start_factor_ <= 0), "LinearLR: start_factor is ",
              start_factor_, "; it is expected to be greater than 0 and less or equal to 1");
  TORCH_CHECK(!(end_factor_ > 1.0) && !(end_factor_ < 0), "LinearLR: end_factor is ", end_factor_,
              "; it is expected to be between 0 and 1");
  check_size(name(), "total_iters", total_iters_);
}

std::vector<double> LinearLR::get_lr() {
  if (last_epoch() == 0) return group_rates_times(start_factor_);
  if (is_initial() || last_epoch() > total_iters_) return group_rates();
  const double rise = end_factor_ - start_factor_;
  const double before = real(total_iters_) * start_factor_ + real(last_epoch() - 1) * rise;
  return group_rates_times(1.0 + quotient(rise, before, name()));
}

std::optional<std::vector<double>> LinearLR::closed_form_lr() {
  const double rise = end_factor_ - start_factor_;
  const double risen = quotient(rise * real(std::min(total_iters_, last_epoch())),
                                real(total_iters_), "LinearLR with total_iters of 0");
  auto rates = base_lrs();
  for (double& rate : rates) rate *= start_factor_ + risen;
  return rates;
}

void LinearLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.number("start_factor", start_factor_);
  fields.number("end_factor", end_factor_);
  fields.integer("total_iters", total_iters_);
}

ExponentialLR::ExponentialLR(const ScheduledOptimizer& optimizer, double gamma,
                             std::int64_t last_epoch)
    : EpochLR("ExponentialLR", optimizer, last_epoch), gamma_(gamma) {
  initial_step();
}

std::vector<double> ExponentialLR::get_lr() {
  return is_initial() ? group_rates() : group_rates_times(gamma_);
}

std::optional<std::vector<double>> ExponentialLR::closed_form_lr() {
  auto rates = base_lrs();
  for (double& rate : rates) rate *= power(gamma_, real(last_epoch()), name());
  return rates;
}

void ExponentialLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.number("gamma", gamma_);
}

PolynomialLR::PolynomialLR(const ScheduledOptimizer& optimizer, std::int64_t total_iters,
                           double power, std::int64_t last_epoch)
    : EpochLR("PolynomialLR", optimizer, last_epoch), total_iters_(total_iters), power_(power) {
  PolynomialLR::check();
  initial_step();
}

void PolynomialLR::check() const {
  check_size(name(), "total_iters", total_iters_);
}

std::vector<double> PolynomialLR::get_lr() {
  if (is_initial() || last_epoch() > total_iters_) return group_rates();
  const double total = real(total_iters_);
  const double left =
      1.0 - quotient(real(last_epoch()), total, "PolynomialLR with total_iters of 0");
  const double left_before = 1.0 - real(last_epoch() - 1) / total;
  return group_rates_times(power(quotient(left, left_before, name()), power_, name()));
}

std::optional<std::vector<double>> PolynomialLR::closed_form_lr() {
  const double part = quotient(real(std::min(total_iters_, last_epoch())), real(total_iters_),
                               "PolynomialLR with total_iters of 0");
  auto rates = base_lrs();
  for (double& rate : rates) rate *= power(1.0 - part, power_, name());
  return rates;
}

void PolynomialLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("total_iters", total_iters_);
  fields.number("power", power_);
}

}  // namespace lockstep::optim::lr_scheduler
