// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/action.h>

#include <string>
#include <vector>

namespace lockstep::pipeline {

/// One line a rank: actions at their times, where `unit` of time takes the place of one action's
/// text. An action that takes longer is followed by '-', and a point marks a unit without work.
/// Without a line end behind the last line.
std::string grid_of(const std::vector<std::vector<TimedAction>>& timeline, double unit);

}  // namespace lockstep::pipeline
