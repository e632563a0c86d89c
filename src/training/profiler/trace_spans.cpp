// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/training/trace_span.h>

#include <cstddef>
#include <utility>

namespace lockstep::training {

std::vector<TraceSpan> spans_of(const DistributedDataParallelStatistics& statistics,
                                const std::string& model) {
  using Clock = TraceSpan::Clock;
  std::vector<TraceSpan> spans;
  const auto add = [&](std::string name, Clock::time_point begin, Clock::time_point end,
                       const std::string& row, std::size_t bytes = 0) {
    // A part that is under way has the end of the step before.
    if (begin == Clock::time_point{} || end < begin) return;
    spans.push_back({std::move(name), begin, end, row, static_cast<std::int64_t>(bytes)});
  };
  const auto& moments = statistics.moments;
  add("forward", moments.forward_begin, moments.forward_end, model);
  add("backward", moments.backward_begin, moments.backward_end, model);
  add("exposed communication", moments.wait_begin, moments.wait_end, model);
  const std::string communication = model + " communication";
  add("communication", moments.first_launch, moments.wait_end, communication);
  const std::string buckets = model + " buckets";
  for (std::size_t i = 0; i < statistics.buckets.size(); ++i) {
    const auto& bucket = statistics.buckets[i];
    add("bucket " + std::to_string(i), bucket.launched, bucket.reduced, buckets, bucket.bytes);
  }
  return spans;
}

}  // namespace lockstep::training
