// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "files/json_events.h"
#include "optim/lr_scheduler/momentum.h"
#include "optim/lr_scheduler/state_reader.h"
#include "optim/lr_scheduler/state_writer.h"

namespace lockstep::optim::lr_scheduler {

struct Schedule::GroupState {
  std::vector<ScheduleFields> fields;
  std::vector<std::optional<double>> momentum;
};

Schedule::Schedule(const char* name, const ScheduledOptimizer& optimizer)
    : name_(name), scheduled_(optimizer) {
  remember_rates();
}

std::vector<double> Schedule::group_rates() const {
  std::vector<double> rates;
  for (const auto& group : std::as_const(optimizer()).param_groups()) {
    rates.push_back(group.options().get_lr());
  }
  return rates;
}

void Schedule::set_group_rates(const std::vector<double>& rates) {
  auto& groups = optimizer().param_groups();
  TORCH_CHECK(rates.size() == groups.size(), name_, ": the schedule was made for ", rates.size(),
              " parameter groups, and the optimizer has ", groups.size(),
              " now; make the schedule after add_param_group");
  for (std::size_t i = 0; i < groups.size(); ++i) groups[i].options().set_lr(rates[i]);
  remember_rates();
}

void Schedule::visit(StateFields& fields) {
  fields.numbers("_last_lr", last_lr_, optimizer().param_groups().size());
}

void Schedule::visit_all(StateFields& fields, GroupState& groups) {
  fields.fixed("_class", files::json_string(name_));
  visit(fields);
  if (!fields.has("param_groups")) return;  // a state that Python has saved
  auto count = static_cast<std::int64_t>(groups.fields.size());
  fields.objects("param_groups", count, count, count, [&](std::size_t i, StateFields& group) {
    group.optional("initial_lr", groups.fields[i].initial_lr);
    group.optional("max_lr", groups.fields[i].max_lr);
    group.optional("min_lr", groups.fields[i].min_lr);
    group.optional("max_momentum", groups.fields[i].max_momentum);
    group.optional("base_momentum", groups.fields[i].base_momentum);
    group.optional("swa_lr", groups.fields[i].swa_lr);
    group.optional("momentum", groups.momentum[i]);
  });
}

std::string Schedule::state() const {
  GroupState known{groups(), {}};
  known.momentum.resize(known.fields.size());
  if (cycles_momentum()) {
    const auto momentum = group_momentum(optimizer());
    known.momentum.assign(momentum.begin(), momentum.end());
  }
  StateWriter writer;
  // The writer changes nothing.
  const_cast<Schedule*>(this)->visit_all(writer, known);
  return writer.object();
}

std::function<void()> Schedule::prepare_state(const std::string& state) {
  auto known = std::make_shared<GroupState>(GroupState{groups(), {}});
  known->momentum.resize(known->fields.size());
  const auto tree = parse_state(name_, state);
  StateSwaps swaps;
  StateReader reader(name_, tree, swaps);
  visit_all(reader, *known);
  // Whether the values fit together is for the class to say, which sees them as its own.
  swaps.swap();
  try {
    check();
  } catch (...) {
    swaps.swap();
    throw;
  }
  swaps.swap();
  return [this, known, swaps = std::move(swaps)]() mutable {
    std::exchange(swaps, {}).swap();  // once
    groups() = known->fields;
    set_group_rates(std::vector<double>(last_lr_));
    if (!cycles_momentum()) return;
    auto momentum = group_momentum(optimizer());
    for (std::size_t i = 0; i < momentum.size(); ++i) {
      momentum[i] = known->momentum[i].value_or(momentum[i]);
    }
    set_group_momentum(optimizer(), momentum);
  };
}

EpochLR::EpochLR(const char* name, const ScheduledOptimizer& optimizer, std::int64_t last_epoch)
    : LRScheduler(name, optimizer), last_epoch_(last_epoch) {
  TORCH_CHECK(last_epoch >= -1, name, ": last_epoch is ", last_epoch, "; it must be -1 or more");
  const auto rates = group_rates();
  for (std::size_t i = 0; i < rates.size(); ++i) {
    auto& initial = groups()[i].initial_lr;
    TORCH_CHECK(last_epoch == -1 || initial, name, ": last_epoch is ", last_epoch,
                ", but the base rate of group ", i,
                " is not known; give the schedule a ScheduledOptimizer with initial_lr, or make it "
                "without last_epoch and load its state");
    if (!initial) initial = rates[i];
    base_lrs_.push_back(*initial);
  }
}

void EpochLR::step() {
  ++step_count_;
  try {
    update(last_epoch_ + 1, [this] { return get_lr(); });
  } catch (...) {
    --step_count_;
    throw;
  }
}

void EpochLR::update(std::int64_t epoch, const std::function<std::vector<double>()>& rates) {
  const auto before = std::exchange(last_epoch_, epoch);
  try {
    set_group_rates(rates());
  } catch (...) {
    last_epoch_ = before;
    throw;
  }
}

void EpochLR::begin() {
  step_count_ = 0;
  is_initial_ = true;
  try {
    step();
  } catch (...) {
    is_initial_ = false;
    throw;
  }
  is_initial_ = false;
}

void EpochLR::restart() {
  update(0, [this] {
    auto rates = closed_form_lr();
    return rates ? std::move(*rates) : get_lr();
  });
}

std::vector<double> EpochLR::group_rates_times(double factor) const {
  auto rates = group_rates();
  for (double& rate : rates) rate *= factor;
  return rates;
}

void EpochLR::visit(StateFields& fields) {
  fields.numbers("base_lrs", base_lrs_);
  fields.integer("last_epoch", last_epoch_);
  fields.integer("_step_count", step_count_);
  // Python has them among the fields; between two steps, both are always so.
  fields.ignored("_is_initial", "false");
  fields.ignored("_get_lr_called_within_step", "false");
  Schedule::visit(fields);
}

}  // namespace lockstep::optim::lr_scheduler
