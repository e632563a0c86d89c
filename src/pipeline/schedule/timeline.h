// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/plan.h>

#include <functional>
#include <vector>

namespace lockstep::pipeline {

/// When each action begins and ends, one row a rank. `plan` is runnable.
std::vector<std::vector<TimedAction>> timeline_of(
    const Plan& plan, const std::function<double(const Action&)>& duration, double transfer);

}  // namespace lockstep::pipeline
