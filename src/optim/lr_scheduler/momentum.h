// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/lr_scheduler/scheduled_optimizer.h>

#include <vector>

namespace lockstep::optim::lr_scheduler {

/// Whether the optimizer has beta1 to cycle, and no `momentum`.
/// Throws: `c10::Error` for a group with neither; `schedule` says which class asks.
[[nodiscard]] bool uses_beta1(const char* schedule, const torch::optim::Optimizer& optimizer);
/// The momentum of each group, or its beta1.
[[nodiscard]] std::vector<double> group_momentum(const torch::optim::Optimizer& optimizer);
/// Sets it. As many as there are groups.
void set_group_momentum(torch::optim::Optimizer& optimizer, const std::vector<double>& momentum);

}  // namespace lockstep::optim::lr_scheduler
