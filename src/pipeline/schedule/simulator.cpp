// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/plan.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "pipeline/schedule/grid.h"
#include "pipeline/schedule/runnable.h"
#include "pipeline/schedule/timeline.h"

namespace lockstep::pipeline {
namespace {

double checked(double cost, const char* what) {
  TORCH_CHECK(std::isfinite(cost) && cost >= 0, "simulating a pipeline: ", what, " takes ", cost,
              "; times are finite and not negative");
  return cost;
}

/// The four costs of a stage, with nothing left open.
StageCosts complete(StageCosts costs) {
  checked(costs.forward, "a forward");
  checked(costs.input, "the gradient of an input");
  checked(costs.weight, "the gradients of weights");
  costs.backward = checked(costs.backward.value_or(costs.input + costs.weight), "a backward");
  return costs;
}

double cost_of(ActionKind kind, const StageCosts& costs) {
  switch (kind) {
    case ActionKind::Forward:
      return costs.forward;
    case ActionKind::BackwardInput:
      return costs.input;
    case ActionKind::BackwardWeight:
      return costs.weight;
    case ActionKind::Backward:
      return *costs.backward;
  }
  __builtin_unreachable();
}

std::int64_t peak_held_of(const std::vector<Action>& actions) {
  std::int64_t held = 0;
  std::int64_t peak = 0;
  for (const Action& action : actions) {
    if (action.kind == ActionKind::BackwardInput) continue;
    held += action.kind == ActionKind::Forward ? 1 : -1;
    peak = std::max(peak, held);
  }
  return peak;
}

/// 1, unless lines become so long by it that nobody reads them.
double unit_of_columns(const std::vector<std::vector<TimedAction>>& times) {
  constexpr double kMostColumns = 4096;
  double unit = 1;
  for (const auto& row : times) unit = std::max(unit, row.back().end / kMostColumns);
  return unit;
}

}  // namespace

Simulation Plan::simulate(const SimulationCosts& costs) const {
  const auto given = static_cast<std::int64_t>(costs.stages.size());
  TORCH_CHECK(given == 0 || given == stages(), "simulating a pipeline: costs of ", given,
              " stages were given, and the plan has ", stages(),
              "; give costs for every stage, or none");
  std::vector<StageCosts> of_stages;
  for (std::int64_t stage = 0; stage < stages(); ++stage) {
    of_stages.push_back(
        complete(given > 0 ? costs.stages[static_cast<std::size_t>(stage)]
                           : StageCosts{costs.forward, costs.input, costs.weight, costs.backward}));
  }
  return simulate(
      [&](const Action& action) {
        return cost_of(action.kind, of_stages[static_cast<std::size_t>(action.stage)]);
      },
      costs.transfer);
}

Simulation Plan::simulate(const std::function<double(const Action&)>& duration,
                          double transfer) const {
  require_runnable(*this);
  checked(transfer, "a transfer");
  Simulation result;
  result.timeline = timeline_of(
      *this,
      [&](const Action& action) { return checked(duration(action), to_string(action).c_str()); },
      transfer);
  for (const auto& row : result.timeline) {
    result.duration = std::max(result.duration, row.back().end);
  }
  TORCH_CHECK(std::isfinite(result.duration), "simulating a pipeline: the times add up to more ",
              "than a number can hold");
  for (const auto& row : result.timeline) {
    double busy = 0;
    for (const TimedAction& timed : row) busy += timed.end - timed.start;
    result.idle.push_back(std::max(0.0, result.duration - busy));  // sums are rounded
  }
  if (result.duration > 0) {
    result.bubble = *std::max_element(result.idle.begin(), result.idle.end()) / result.duration;
  }
  for (const auto& row : actions_) result.peak_held.push_back(peak_held_of(row));
  result.stages_per_rank = stages_per_rank();
  return result;
}

std::string Plan::to_text() const {
  const auto equal = [](const Action& /*action*/) { return 1.0; };
  std::vector<std::vector<TimedAction>> times;
  if (is_runnable(*this)) {
    times = timeline_of(*this, equal, 0);
    return grid_of(times, unit_of_columns(times));
  }
  for (const auto& row : actions_) {
    auto& without_waits = times.emplace_back();
    for (const Action& action : row) {
      const auto start = static_cast<double>(without_waits.size());
      without_waits.push_back({action, start, start + 1});
    }
  }
  return grid_of(times, unit_of_columns(times));
}

std::ostream& operator<<(std::ostream& out, const Plan& plan) {
  return out << plan.to_text();
}

}  // namespace lockstep::pipeline
