// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/statistics.h>

namespace lockstep::pipeline {

ActionTimes PipelineStatistics::times(ActionKind kind, std::int64_t stage) const {
  for (const ActionTimes& one : actions) {
    if (one.kind == kind && one.stage == stage) return one;
  }
  return {kind, stage};
}

}  // namespace lockstep::pipeline
