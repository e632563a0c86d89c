// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/grid.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace lockstep::pipeline {
namespace {

using Timeline = std::vector<std::vector<TimedAction>>;

/// Room for the longest text of an action, and a space.
std::size_t width_of(const Timeline& rows) {
  std::size_t width = 0;
  for (const auto& row : rows) {
    for (const TimedAction& timed : row) width = std::max(width, to_string(timed.action).size());
  }
  return width + 1;
}

std::string line_of(const std::vector<TimedAction>& row, double unit, std::size_t width,
                    std::size_t units) {
  std::string line(units * width, ' ');
  for (std::size_t i = 0; i < units; ++i) line[i * width] = '.';
  const auto column_of = [&](double time) {
    return static_cast<std::size_t>(std::llround(time / unit)) * width;
  };
  for (const TimedAction& timed : row) {
    const std::size_t begin = std::min(column_of(timed.start), line.size());
    const std::size_t end = std::min(std::max(column_of(timed.end), begin + width), line.size());
    if (begin == end) continue;
    std::string text = to_string(timed.action);
    text.resize(width - 1, ' ');
    if (end > begin + width) text.resize(end - begin - 1, '-');
    line.replace(begin, end - begin, text.append(" "));
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::string grid_of(const Timeline& timeline, double unit) {
  double last = 0;
  for (const auto& row : timeline) last = std::max(last, row.empty() ? 0 : row.back().end);
  const std::size_t width = width_of(timeline);
  const auto units = static_cast<std::size_t>(std::llround(last / unit));
  const std::size_t digits = std::to_string(timeline.size() - 1).size();
  std::string text;
  for (std::size_t rank = 0; rank < timeline.size(); ++rank) {
    if (rank > 0) text += '\n';
    const std::string number = std::to_string(rank);
    text += "rank ";
    text.append(digits - number.size(), ' ');
    text += number + "  ";
    text += line_of(timeline[rank], unit, width, units);
  }
  return text;
}

}  // namespace lockstep::pipeline
