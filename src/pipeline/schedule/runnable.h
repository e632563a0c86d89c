// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/plan.h>

namespace lockstep::pipeline {

/// The parts of `Plan::check()` on which everything else relies: complete, ordered, and no ranks
/// that wait for each other.
/// Throws: `c10::Error` otherwise.
void require_runnable(const Plan& plan);
/// Whether `require_runnable` throws nothing.
bool is_runnable(const Plan& plan);

}  // namespace lockstep::pipeline
