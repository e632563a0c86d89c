// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/buckets/saved_assignments.h"

namespace lockstep {

/// What a reducer has learned from its backwards, and what decides the bits of the next ones. It is
/// the same on all ranks, but for `expected` where ranks run a module different numbers of times.
struct ReducerState {
  std::vector<int> expected;       ///< gradients in a backward, of each parameter
  std::int64_t usual_samples = 0;  ///< as `SampleWeights::nominal`
  SavedAssignments assignments;
};

}  // namespace lockstep
