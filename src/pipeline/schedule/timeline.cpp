// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/timeline.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "pipeline/schedule/dependencies.h"

namespace lockstep::pipeline {

std::vector<std::vector<TimedAction>> timeline_of(
    const Plan& plan, const std::function<double(const Action&)>& duration, double transfer) {
  const Dependencies dependencies(plan);
  std::vector<double> made_at(dependencies.results());
  std::vector<std::vector<TimedAction>> timeline(static_cast<std::size_t>(plan.ranks()));
  walk(plan, [&](std::int64_t rank, std::size_t place) {
    auto& row = timeline[static_cast<std::size_t>(rank)];
    const Action& action = plan.actions(rank)[place];
    double start = row.empty() ? 0 : row.back().end;
    if (const auto needed = dependencies.needed_by(action)) {
      const double way = dependencies.maker_of(*needed) == rank ? 0 : transfer;
      start = std::max(start, made_at[dependencies.index_of(*needed)] + way);
    }
    row.push_back({action, start, start + duration(action)});
    if (const auto made = dependencies.made_by(action)) {
      made_at[dependencies.index_of(*made)] = row.back().end;
    }
  });
  return timeline;
}

}  // namespace lockstep::pipeline
