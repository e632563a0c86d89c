// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/cosine_annealing_lr.h>

#include <cmath>
#include <cstddef>

#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {

CosineAnnealingLR::CosineAnnealingLR(const ScheduledOptimizer& optimizer, std::int64_t T_max,
                                     double eta_min, std::int64_t last_epoch)
    : EpochLR("CosineAnnealingLR", optimizer, last_epoch), t_max_(T_max), eta_min_(eta_min) {
  CosineAnnealingLR::check();
  initial_step();
}

void CosineAnnealingLR::check() const {
  TORCH_CHECK(t_max_ != 0,
              "CosineAnnealingLR: T_max is 0; expected the number of epochs in which the "
              "rate falls");
  check_size(name(), "T_max", t_max_);
}

std::vector<double> CosineAnnealingLR::get_lr() {
  if (is_initial()) return group_rates();
  const std::int64_t epoch = last_epoch();
  if (step_count() == 1 && epoch > 0) return *closed_form_lr();
  auto rates = group_rates();
  if (floor_modulo(epoch - 1 - t_max_, 2 * t_max_) == 0) {
    // The rate before is eta_min, from which no factor leads away.
    TORCH_CHECK(rates.size() == base_lrs().size(), "CosineAnnealingLR: the schedule was made for ",
                base_lrs().size(), " parameter groups, and the optimizer has ", rates.size(),
                " now");
    const double rise = 1 - std::cos(kPi / real(t_max_));
    for (std::size_t i = 0; i < rates.size(); ++i)
      rates[i] += (base_lrs()[i] - eta_min_) * rise / 2;
    return rates;
  }
  const double now = 1 + std::cos(kPi * real(epoch) / real(t_max_));
  const double before = 1 + std::cos(kPi * real(epoch - 1) / real(t_max_));
  const double factor = quotient(now, before, name());
  for (double& rate : rates) rate = factor * (rate - eta_min_) + eta_min_;
  return rates;
}

std::optional<std::vector<double>> CosineAnnealingLR::closed_form_lr() {
  const double height = 1 + std::cos(kPi * real(last_epoch()) / real(t_max_));
  auto rates = base_lrs();
  for (double& rate : rates) rate = eta_min_ + (rate - eta_min_) * height / 2;
  return rates;
}

void CosineAnnealingLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("T_max", t_max_);
  fields.number("eta_min", eta_min_);
}

CosineAnnealingWarmRestarts::CosineAnnealingWarmRestarts(const ScheduledOptimizer& optimizer,
                                                         std::int64_t T_0, std::int64_t T_mult,
                                                         double eta_min, std::int64_t last_epoch)
    : EpochLR("CosineAnnealingWarmRestarts", optimizer, last_epoch),
      t_0_(T_0),
      t_mult_(T_mult),
      eta_min_(eta_min),
      place_{real(last_epoch), T_0} {
  CosineAnnealingWarmRestarts::check();
  initial_step();
}

void CosineAnnealingWarmRestarts::check() const {
  TORCH_CHECK(t_0_ > 0, name(), ": expected positive integer T_0, but got ", t_0_);
  TORCH_CHECK(t_mult_ >= 1, name(), ": expected integer T_mult >= 1, but got ", t_mult_);
  TORCH_CHECK(place_.t_i > 0, name(), ": expected positive integer T_i, but got ", place_.t_i);
  check_size(name(), "T_0", t_0_);
  check_size(name(), "T_mult", t_mult_);
  check_size(name(), "T_i", place_.t_i);
}

std::vector<double> CosineAnnealingWarmRestarts::get_lr() {
  const double height = 1 + std::cos(kPi * place_.t_cur / real(place_.t_i));
  auto rates = base_lrs();
  for (double& rate : rates) rate = eta_min_ + (rate - eta_min_) * height / 2;
  return rates;
}

void CosineAnnealingWarmRestarts::step() {
  if (last_epoch() < 0) return step(0.0);
  Place next{place_.t_cur + 1, place_.t_i};
  if (next.t_cur >= real(next.t_i)) {
    next.t_cur = std::fmod(next.t_cur, real(next.t_i));
    TORCH_CHECK(next.t_i <= kMaxWhole / t_mult_, name(),
                ": the next cycle would have more than 2^53 "
                "epochs; choose a smaller T_mult");
    next.t_i *= t_mult_;
  }
  go_to(next, real(last_epoch() + 1));
}

void CosineAnnealingWarmRestarts::step(double epoch) {
  TORCH_CHECK(epoch >= 0 && epoch <= real(kMaxWhole), name(),
              ": expected non-negative epoch up to 2^53, but got ", epoch);
  Place next{epoch, t_0_};
  if (epoch >= real(t_0_) && t_mult_ == 1) {
    next = {std::fmod(epoch, real(t_0_)), place_.t_i};
  } else if (epoch >= real(t_0_)) {
    const double ratio = epoch / real(t_0_) * real(t_mult_ - 1) + 1;
    const auto cycles = std::trunc(std::log(ratio) / std::log(real(t_mult_)));
    const double growth = std::pow(real(t_mult_), cycles);
    next.t_cur = epoch - real(t_0_) * (growth - 1) / real(t_mult_ - 1);
    TORCH_CHECK(real(t_0_) * growth <= real(kMaxWhole), name(), ": the cycle of epoch ", epoch,
                " would have more than 2^53 epochs; choose a smaller T_mult");
    next.t_i = static_cast<std::int64_t>(real(t_0_) * growth);
  }
  go_to(next, epoch);
}

void CosineAnnealingWarmRestarts::go_to(Place place, double epoch) {
  const Place before = place_;
  place_ = place;
  try {
    update(static_cast<std::int64_t>(std::floor(epoch)), [this] { return get_lr(); });
  } catch (...) {
    place_ = before;
    throw;
  }
}

void CosineAnnealingWarmRestarts::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("T_0", t_0_);
  fields.integer("T_i", place_.t_i);
  fields.integer("T_mult", t_mult_);
  fields.number("eta_min", eta_min_);
  fields.number("T_cur", place_.t_cur);
}

}  // namespace lockstep::optim::lr_scheduler
