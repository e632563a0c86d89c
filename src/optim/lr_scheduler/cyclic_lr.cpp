// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/cyclic_lr.h>

#include <cmath>
#include <cstddef>
#include <utility>

#include "optim/lr_scheduler/momentum.h"
#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {
namespace {

constexpr const char* kCyclic = "CyclicLR";

/// The optimizer with `base_lr` as its rates, which become the base rates where there are none.
const ScheduledOptimizer& with_base_rates(const ScheduledOptimizer& optimizer,
                                          const CyclicLROptions& options) {
  auto& groups = optimizer.optimizer().param_groups();
  const auto rates = options.base_lr().for_groups("CyclicLR: base_lr", groups.size());
  if (options.last_epoch() != -1) return optimizer;
  for (std::size_t i = 0; i < groups.size(); ++i) groups[i].options().set_lr(rates[i]);
  return optimizer;
}

}  // namespace

CyclicLROptions::CyclicLROptions(PerGroup base_lr, PerGroup max_lr)
    : base_lr_(std::move(base_lr)), max_lr_(std::move(max_lr)) {}

CyclicLR::CyclicLR(const ScheduledOptimizer& optimizer, PerGroup base_lr, PerGroup max_lr,
                   std::int64_t step_size_up)
    : CyclicLR(optimizer,
               CyclicLROptions(std::move(base_lr), std::move(max_lr)).step_size_up(step_size_up)) {}

CyclicLR::CyclicLR(const ScheduledOptimizer& optimizer, const CyclicLROptions& options)
    : EpochLR(kCyclic, with_base_rates(optimizer, options), options.last_epoch()),
      mode_(options.mode()),
      gamma_(options.gamma()),
      scale_fn_(options.scale_fn()),
      scale_mode_(options.scale_mode()),
      cycle_momentum_(options.cycle_momentum()) {
  auto& fields = groups();
  max_lrs_ = options.max_lr().for_groups("CyclicLR: max_lr", fields.size());
  const double up = real(options.step_size_up());
  total_size_ = up + real(options.step_size_down().value_or(options.step_size_up()));
  step_ratio_ = quotient(up, total_size_, "CyclicLR with no steps up and down");
  if (!scale_fn_) scale_mode_ = mode_ == "exp_range" ? "iterations" : "cycle";
  if (cycle_momentum_) {
    use_beta1_ = uses_beta1(name(), optimizer.optimizer());
    base_momentums_ = options.base_momentum().for_groups("CyclicLR: base_momentum", fields.size());
    max_momentums_ = options.max_momentum().for_groups("CyclicLR: max_momentum", fields.size());
  }
  CyclicLR::check();
  if (cycle_momentum_ && options.last_epoch() == -1) {
    set_group_momentum(optimizer.optimizer(), max_momentums_);
    for (std::size_t i = 0; i < fields.size(); ++i) {
      fields[i].max_momentum = max_momentums_[i];
      fields[i].base_momentum = base_momentums_[i];
    }
  }
  initial_step();
  // As in Python, the first rates come from the base rates of a schedule before, if there was one.
  set_base_lrs(options.base_lr().for_groups("CyclicLR: base_lr", fields.size()));
}

void CyclicLR::check() const {
  TORCH_CHECK(scale_fn_ || mode_ == "triangular" || mode_ == "triangular2" || mode_ == "exp_range",
              "CyclicLR: mode is '", mode_,
              "'; expected triangular, triangular2 or exp_range, or a scale_fn");
  TORCH_CHECK(scale_mode_ == "cycle" || scale_mode_ == "iterations", "CyclicLR: scale_mode is '",
              scale_mode_, "'; expected cycle or iterations");
  TORCH_CHECK(total_size_ > 0 && step_ratio_ > 0 && step_ratio_ <= 1,
              "CyclicLR: step_size_up must be above 0, and step_size_down 0 or more");
}

double CyclicLR::scale(double cycle) const {
  if (scale_fn_) return scale_fn_(scale_mode_ == "cycle" ? cycle : real(last_epoch()));
  if (mode_ == "triangular2") return 1 / power(2.0, cycle - 1, name());
  return mode_ == "exp_range" ? power(gamma_, real(last_epoch()), name()) : 1.0;
}

std::vector<double> CyclicLR::get_lr() {
  const double cycle = std::floor(1 + real(last_epoch()) / total_size_);
  const double x = 1.0 + real(last_epoch()) / total_size_ - cycle;
  const double height = x <= step_ratio_ ? x / step_ratio_ : (x - 1) / (step_ratio_ - 1);
  auto rates = base_lrs();
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const double base_height = (max_lrs_[i] - rates[i]) * height;
    rates[i] = rates[i] + base_height * scale(cycle);
  }
  if (!cycle_momentum_) return rates;
  auto momentum = max_momentums_;
  for (std::size_t i = 0; i < momentum.size(); ++i) {
    const double base_height = (momentum[i] - base_momentums_[i]) * height;
    momentum[i] = momentum[i] - base_height * scale(cycle);
  }
  set_group_momentum(optimizer(), momentum);
  return rates;
}

void CyclicLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.numbers("max_lrs", max_lrs_);
  fields.number("total_size", total_size_);
  fields.number("step_ratio", step_ratio_);
  fields.text("mode", mode_);
  fields.number("gamma", gamma_);
  fields.text("scale_mode", scale_mode_);
  fields.fixed("cycle_momentum", cycle_momentum_ ? "true" : "false");
  fields.ignored("_scale_fn_custom", "null");
  if (!cycle_momentum_) return;
  fields.fixed("use_beta1", use_beta1_ ? "true" : "false");
  fields.numbers("base_momentums", base_momentums_);
  fields.numbers("max_momentums", max_momentums_);
}

}  // namespace lockstep::optim::lr_scheduler
