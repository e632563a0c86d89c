// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/plan.h>

#include <vector>

namespace lockstep::pipeline {

/// `Plan::steps` of all ranks. `plan` is runnable.
std::vector<std::vector<Step>> steps_of_all_ranks(const Plan& plan);

}  // namespace lockstep::pipeline
