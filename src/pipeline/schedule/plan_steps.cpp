// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/plan_steps.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "pipeline/schedule/dependencies.h"
#include "pipeline/schedule/runnable.h"
#include "pipeline/schedule/timeline.h"

namespace lockstep::pipeline {
namespace {

double usual_duration(const Action& action) {
  return action.kind == ActionKind::Backward ? 2 : 1;
}

/// A receive, and when its message comes if all actions take their usual time.
struct Arrival {
  double time = 0;
  Step post;
};

/// The receives of one rank, in the order of their messages.
std::vector<Arrival> arrivals_of(const Plan& plan, std::int64_t rank,
                                 const std::vector<double>& made_at) {
  const Dependencies dependencies(plan);
  std::vector<Arrival> arrivals;
  std::int64_t place = 0;
  for (const Action& action : plan.actions(rank)) {
    const auto needed = dependencies.needed_by(action);
    if (needed && dependencies.maker_of(*needed) != rank) {
      arrivals.push_back({made_at[dependencies.index_of(*needed)],
                          {StepKind::PostReceive, needed->traffic, action.stage, action.microbatch,
                           dependencies.maker_of(*needed), place}});
    }
    ++place;
  }
  // Messages of one sender have different times, so this is the order in which it sends them.
  std::stable_sort(arrivals.begin(), arrivals.end(),
                   [](const Arrival& a, const Arrival& b) { return a.time < b.time; });
  return arrivals;
}

std::vector<Step> steps_of_rank(const Plan& plan, std::int64_t rank,
                                const std::vector<TimedAction>& times,
                                const std::vector<double>& made_at) {
  const Dependencies dependencies(plan);
  const auto arrivals = arrivals_of(plan, rank, made_at);
  std::vector<Step> steps;
  auto arrival = arrivals.begin();
  for (std::size_t i = 0; i < times.size(); ++i) {
    const Action& action = times[i].action;
    const auto place = static_cast<std::int64_t>(i);
    // What comes before the next action begins: so every sender finds its receive posted, if all
    // take their usual time. Ranks whose steps never depend on who comes first end with any times
    // if they end with these.
    while (arrival != arrivals.end() &&
           (i + 1 == times.size() || arrival->time <= times[i + 1].start)) {
      steps.push_back((arrival++)->post);
    }
    const auto needed = dependencies.needed_by(action);
    if (needed && dependencies.maker_of(*needed) != rank) {
      steps.push_back({StepKind::WaitReceive, needed->traffic, action.stage, action.microbatch,
                       dependencies.maker_of(*needed), place});
    }
    steps.push_back(
        {StepKind::Compute, Traffic::Activation, action.stage, action.microbatch, rank, place});
    const auto made = dependencies.made_by(action);
    if (made && dependencies.user_of(*made) != rank) {
      steps.push_back({StepKind::Send, made->traffic, action.stage, action.microbatch,
                       dependencies.user_of(*made), place});
    }
  }
  return steps;
}

}  // namespace

std::vector<std::vector<Step>> steps_of_all_ranks(const Plan& plan) {
  const Dependencies dependencies(plan);
  const auto timeline = timeline_of(plan, usual_duration, 0);
  std::vector<double> made_at(dependencies.results());
  for (const auto& row : timeline) {
    for (const TimedAction& timed : row) {
      const auto made = dependencies.made_by(timed.action);
      if (made) made_at[dependencies.index_of(*made)] = timed.end;
    }
  }
  std::vector<std::vector<Step>> steps;
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
    steps.push_back(steps_of_rank(plan, rank, timeline[static_cast<std::size_t>(rank)], made_at));
  }
  return steps;
}

std::vector<Step> Plan::steps(std::int64_t rank) const {
  static_cast<void>(actions(rank));
  require_runnable(*this);
  return std::move(steps_of_all_ranks(*this)[static_cast<std::size_t>(rank)]);
}

}  // namespace lockstep::pipeline
