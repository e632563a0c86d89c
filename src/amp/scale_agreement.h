// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <cstdint>

namespace lockstep::amp {

/// What a rank brings to a step.
struct ScaleReport {
  bool found_inf = false;
  bool has_gradients = false;  // of a parameter of the optimizer
  bool has_scaled = false;     // a loss, ever
  // What must be the same on all ranks.
  double scale = 0;
  std::int64_t growth_tracker = 0;
  double growth_factor = 0;
  double backoff_factor = 0;
  std::int64_t growth_interval = 0;
};

/// The report of all ranks together: a flag is set where one rank has set it.
///
/// Blocks: the calling thread. Collective: all ranks.
/// Throws: `MismatchError` on all ranks where they differ; what a collective throws.
[[nodiscard]] ScaleReport agree_on(ProcessGroup& group, const ScaleReport& own);

}  // namespace lockstep::amp
