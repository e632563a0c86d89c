// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/swa_lr.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {

SWALR::SWALR(const ScheduledOptimizer& optimizer, const PerGroup& swa_lr,
             std::int64_t anneal_epochs, std::string anneal_strategy, std::int64_t last_epoch)
    : EpochLR("SWALR", optimizer, last_epoch),
      anneal_epochs_(anneal_epochs),
      anneal_strategy_(std::move(anneal_strategy)) {
  SWALR::check();
  auto& fields = groups();
  const auto rates = swa_lr.for_groups("SWALR: swa_lr", fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) fields[i].swa_lr = rates[i];
  initial_step();
}

void SWALR::check() const {
  TORCH_CHECK(anneal_strategy_ == "cos" || anneal_strategy_ == "linear",
              "SWALR: anneal_strategy must be one of 'cos' or 'linear', instead got '",
              anneal_strategy_, "'");
  TORCH_CHECK(anneal_epochs_ >= 0, "SWALR: anneal_epochs must be equal or greater than 0, got ",
              anneal_epochs_);
  check_size(name(), "anneal_epochs", anneal_epochs_);
}

double SWALR::annealed(std::int64_t step) const {
  const double length = real(std::max<std::int64_t>(1, anneal_epochs_));
  const double part = std::clamp(real(step) / length, 0.0, 1.0);
  return anneal_strategy_ == "linear" ? part : (1 - std::cos(kPi * part)) / 2;
}

std::vector<double> SWALR::get_lr() {
  std::int64_t step = step_count() - 1;
  if (anneal_epochs_ == 0) step = std::max<std::int64_t>(1, step);
  const double before = annealed(step - 1);
  const double now = annealed(step);
  auto rates = group_rates();
  const auto& fields = groups();
  for (std::size_t i = 0; i < rates.size(); ++i) {
    TORCH_CHECK(fields[i].swa_lr, "SWALR: group ", i,
                " has no swa_lr; it was added after the schedule");
    const double swa_lr = *fields[i].swa_lr;
    const double initial = before == 1 ? swa_lr : (rates[i] - before * swa_lr) / (1 - before);
    rates[i] = swa_lr * now + initial * (1 - now);
  }
  return rates;
}

void SWALR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("anneal_epochs", anneal_epochs_);
  fields.text("_anneal_strategy", anneal_strategy_);
}

}  // namespace lockstep::optim::lr_scheduler
