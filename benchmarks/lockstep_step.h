// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <set>
#include <string>

#include "training_step.h"

namespace bench {

/// What `Settings::hook` may be.
[[nodiscard]] std::set<std::string> hook_names();

/// The step with Lockstep's `DistributedDataParallel`, all options at their defaults.
void run_lockstep(const Settings& settings);

/// The same program without it: the ranks only start the timed steps together.
void run_alone(const Settings& settings);

}  // namespace bench
