// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/parallel/statistics.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::training {

/// Something that took a while and is to be shown in a `Profiler`'s trace, though LibTorch's own
/// profiler does not see it.
///
/// Thread-safety: a value.
struct TraceSpan {
  /// `CLOCK_MONOTONIC`, by which Lockstep measures time. A trace has the time of day; the profiler
  /// compares the two clocks when it begins to record.
  using Clock = std::chrono::steady_clock;

  std::string name;           ///< any text in UTF-8
  Clock::time_point begin{};  ///< see `Clock`
  Clock::time_point end{};    ///< not before `begin`
  /// The row of the trace. Of spans in one row that overlap, the later ones go to rows below, with
  /// a number behind the name.
  std::string row = "program";
  std::int64_t bytes = 0;  ///< that it was about, as an argument of the span; 0: says nothing
};

/// The last step of a wrapped model as spans: forward, backward, and the wait at its end, for which
/// communication was exposed, in the row "`model`"; communication in "`model` communication"; and
/// each bucket from its launch to the moment when this rank knew that it was reduced in
/// "`model` buckets", with its bytes. What has not happened is left out: in a world of one, there
/// is a forward only. Times are the host's.
/// Thread-safety: any thread.
[[nodiscard]] LOCKSTEP_API std::vector<TraceSpan> spans_of(
    const DistributedDataParallelStatistics& statistics, const std::string& model = "DDP");

}  // namespace lockstep::training
