// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/plan.h>

#include <vector>

namespace lockstep::pipeline {

/// Walks the steps of all ranks where nothing is buffered: a send ends when its receive is posted.
/// Throws: `c10::Error` which names a rank that never ends.
void require_rendezvous(const Plan& plan, const std::vector<std::vector<Step>>& steps);

}  // namespace lockstep::pipeline
