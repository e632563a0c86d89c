// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/one_cycle_lr.h>

#include <cmath>
#include <cstddef>
#include <utility>

#include "optim/lr_scheduler/momentum.h"
#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {
namespace {

constexpr const char* kOneCycle = "OneCycleLR";

std::int64_t total_steps_of(const OneCycleLROptions& options) {
  const auto positive = [](const char* name, std::int64_t value) {
    TORCH_CHECK(value > 0, kOneCycle, ": expected positive integer ", name, ", but got ", value);
    check_size(kOneCycle, name, value);
    return value;
  };
  if (options.total_steps()) return positive("total_steps", *options.total_steps());
  TORCH_CHECK(options.epochs() && options.steps_per_epoch(), kOneCycle,
              ": you must define either total_steps or both epochs and steps_per_epoch");
  const auto epochs = positive("epochs", *options.epochs());
  const auto steps = positive("steps_per_epoch", *options.steps_per_epoch());
  TORCH_CHECK(epochs <= kMaxWhole / steps, kOneCycle,
              ": epochs times steps_per_epoch is above 2^53");
  return epochs * steps;
}

using Field = std::optional<double> ScheduleFields::*;

/// What a phase calls by this name.
Field field_named(const std::string& key) {
  static constexpr std::pair<const char*, Field> kFields[] = {
      {"initial_lr", &ScheduleFields::initial_lr},
      {"max_lr", &ScheduleFields::max_lr},
      {"min_lr", &ScheduleFields::min_lr},
      {"max_momentum", &ScheduleFields::max_momentum},
      {"base_momentum", &ScheduleFields::base_momentum},
  };
  for (const auto& [name, field] : kFields) {
    if (key == name) return field;
  }
  TORCH_CHECK(false, kOneCycle, ": a phase goes from or to '", key, "', which no group has");
}

double field_of(const ScheduleFields& fields, const std::string& key) {
  const auto& value = fields.*field_named(key);
  TORCH_CHECK(value, kOneCycle, ": the groups of the optimizer have no ", key,
              "; was the schedule made with last_epoch, or a group added since?");
  return *value;
}

}  // namespace

OneCycleLROptions::OneCycleLROptions(PerGroup max_lr) : max_lr_(std::move(max_lr)) {}

OneCycleLR::OneCycleLR(const ScheduledOptimizer& optimizer, PerGroup max_lr,
                       std::int64_t total_steps)
    : OneCycleLR(optimizer, OneCycleLROptions(std::move(max_lr)).total_steps(total_steps)) {}

namespace {

/// The base rates are set before those of the base class are taken from them.
const ScheduledOptimizer& with_rates(const ScheduledOptimizer& optimizer,
                                     const OneCycleLROptions& options) {
  auto& groups = optimizer.groups();
  const auto max_lrs = options.max_lr().for_groups("OneCycleLR: max_lr", groups.size());
  if (options.last_epoch() != -1) return optimizer;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const double initial = quotient(max_lrs[i], options.div_factor(), "OneCycleLR: div_factor");
    groups[i].initial_lr = initial;
    groups[i].max_lr = max_lrs[i];
    groups[i].min_lr =
        quotient(initial, options.final_div_factor(), "OneCycleLR: final_div_factor");
  }
  return optimizer;
}

}  // namespace

OneCycleLR::OneCycleLR(const ScheduledOptimizer& optimizer, const OneCycleLROptions& options)
    : EpochLR(kOneCycle, with_rates(optimizer, options), options.last_epoch()),
      total_steps_(total_steps_of(options)),
      anneal_strategy_(options.anneal_strategy()),
      cycle_momentum_(options.cycle_momentum()) {
  TORCH_CHECK(options.pct_start() >= 0 && options.pct_start() <= 1, kOneCycle,
              ": expected pct_start between 0 and 1, but got ", options.pct_start());
  make_phases(options);
  OneCycleLR::check();
  if (cycle_momentum_) cycle_groups(options);
  initial_step();
}

void OneCycleLR::make_phases(const OneCycleLROptions& options) {
  const double total = real(total_steps_);
  phases_[0] = {options.pct_start() * total - 1, "initial_lr", "max_lr", "max_momentum",
                "base_momentum"};
  if (options.three_phase()) {
    phases_[1] = {2 * options.pct_start() * total - 2, "max_lr", "initial_lr", "base_momentum",
                  "max_momentum"};
    phases_[2] = {total - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"};
  } else {
    phases_[1] = {total - 1, "max_lr", "min_lr", "base_momentum", "max_momentum"};
  }
  phase_count_ = options.three_phase() ? 3 : 2;
}

void OneCycleLR::cycle_groups(const OneCycleLROptions& options) {
  auto& fields = groups();
  use_beta1_ = uses_beta1(name(), optimizer());
  const auto highest = options.max_momentum().for_groups("OneCycleLR: max_momentum", fields.size());
  const auto lowest =
      options.base_momentum().for_groups("OneCycleLR: base_momentum", fields.size());
  if (options.last_epoch() != -1) return;
  set_group_momentum(optimizer(), highest);
  for (std::size_t i = 0; i < fields.size(); ++i) {
    fields[i].max_momentum = highest[i];
    fields[i].base_momentum = lowest[i];
  }
}

void OneCycleLR::check() const {
  TORCH_CHECK(anneal_strategy_ == "cos" || anneal_strategy_ == "linear", kOneCycle,
              ": anneal_strategy must be one of 'cos' or 'linear', instead got '", anneal_strategy_,
              "'");
  for (std::size_t i = 0; i < static_cast<std::size_t>(phase_count_); ++i) {
    const auto& phase = phases_[i];
    for (const auto* key :
         {&phase.start_lr, &phase.end_lr, &phase.start_momentum, &phase.end_momentum}) {
      static_cast<void>(field_named(*key));
    }
  }
}

double OneCycleLR::anneal(double start, double end, double part) const {
  if (anneal_strategy_ == "linear") return (end - start) * part + start;
  const double height = std::cos(kPi * part) + 1;
  return end + (start - end) / 2.0 * height;
}

std::vector<double> OneCycleLR::get_lr() {
  const std::int64_t epoch = last_epoch();
  TORCH_CHECK(epoch <= total_steps_, kOneCycle, ": tried to step ", epoch,
              " times; the specified number of total steps is ", total_steps_);
  std::size_t which = 0;
  double start = 0;
  while (real(epoch) > phases_[which].end_step &&
         which + 1 < static_cast<std::size_t>(phase_count_)) {
    start = phases_[which++].end_step;
  }
  const Phase& phase = phases_[which];
  const double part = quotient(real(epoch) - start, phase.end_step - start,
                               "OneCycleLR: a phase without steps (see pct_start and total_steps)");
  std::vector<double> rates;
  std::vector<double> momentum;
  for (const auto& fields : groups()) {
    rates.push_back(anneal(field_of(fields, phase.start_lr), field_of(fields, phase.end_lr), part));
    if (!cycle_momentum_) continue;
    momentum.push_back(
        anneal(field_of(fields, phase.start_momentum), field_of(fields, phase.end_momentum), part));
  }
  if (cycle_momentum_) set_group_momentum(optimizer(), momentum);
  return rates;
}

void OneCycleLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.integer("total_steps", total_steps_);
  fields.objects("_schedule_phases", phase_count_, 2, kMaxPhases,
                 [this](std::size_t i, StateFields& phase) {
                   phase.number("end_step", phases_[i].end_step);
                   phase.text("start_lr", phases_[i].start_lr);
                   phase.text("end_lr", phases_[i].end_lr);
                   phase.text("start_momentum", phases_[i].start_momentum);
                   phase.text("end_momentum", phases_[i].end_momentum);
                 });
  fields.text("_anneal_func_type", anneal_strategy_);
  fields.fixed("cycle_momentum", cycle_momentum_ ? "true" : "false");
  if (cycle_momentum_) fields.fixed("use_beta1", use_beta1_ ? "true" : "false");
}

}  // namespace lockstep::optim::lr_scheduler
