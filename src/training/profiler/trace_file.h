// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/trace_span.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "training/profiler/kineto_recording.h"

namespace lockstep::training {

/// What is added to Kineto's trace.
struct TraceAdditions {
  std::string name;     ///< the file's
  std::string backend;  ///< of the group
  int rank = 0;         ///< likewise
  int world_size = 1;   ///< likewise
  std::int64_t process = 0;
  std::vector<TraceSpan> spans;  ///< in any order; equal ones count once
  TimeOfDay time_of_day;
};

/// Kineto's trace with `distributedInfo`, the spans, and the name of the file. Everything else
/// stays byte for byte.
/// Throws: `c10::Error` where that is no whole trace as Kineto writes it.
[[nodiscard]] std::string with_additions(std::string_view trace, TraceAdditions additions);

}  // namespace lockstep::training
