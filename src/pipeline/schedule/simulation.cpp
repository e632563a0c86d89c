// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/simulation.h>

#include <algorithm>
#include <cstddef>
#include <iomanip>
#include <ostream>
#include <sstream>

#include "pipeline/schedule/grid.h"

namespace lockstep::pipeline {
namespace {

/// The shortest action takes one column, if the whole does not become too long by that.
double unit_of(const Simulation& simulation) {
  constexpr double kMostColumns = 512;
  double unit = simulation.duration;
  for (const auto& row : simulation.timeline) {
    for (const TimedAction& timed : row) {
      if (timed.end > timed.start) unit = std::min(unit, timed.end - timed.start);
    }
  }
  return std::max(unit, simulation.duration / kMostColumns);
}

}  // namespace

std::string Simulation::to_text() const {
  std::ostringstream text;
  if (duration > 0) text << grid_of(timeline, unit_of(*this)) << '\n';
  text << "duration " << duration << ", bubble " << std::fixed << std::setprecision(1)
       << 100 * bubble << " %" << std::defaultfloat << std::setprecision(6) << ", idle";
  for (const double each : idle) text << ' ' << each;
  text << ", microbatches held at most";
  for (const auto each : peak_held) {
    text << ' ' << static_cast<double>(each) / static_cast<double>(stages_per_rank);
  }
  return text.str();
}

std::ostream& operator<<(std::ostream& out, const Simulation& simulation) {
  return out << simulation.to_text();
}

}  // namespace lockstep::pipeline
