// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_tuner.h"

#include <algorithm>
#include <limits>

namespace lockstep {

void CostSums::add(double bucket_bytes, double bucket_seconds) {
  count += 1;
  bytes += bucket_bytes;
  seconds += bucket_seconds;
  bytes_bytes += bucket_bytes * bucket_bytes;
  bytes_seconds += bucket_bytes * bucket_seconds;
}

void fit_costs(const CostSums& sums, StepTimes& times) {
  times.seconds_per_bucket = times.seconds_per_byte = 0;
  if (sums.count <= 0 || sums.bytes <= 0) return;
  const double spread = sums.count * sums.bytes_bytes - sums.bytes * sums.bytes;
  double slope = spread > 0 ? (sums.count * sums.bytes_seconds - sums.bytes * sums.seconds) / spread
                            : sums.seconds / sums.bytes;
  slope = std::max(0.0, slope);
  const double rest = (sums.seconds - slope * sums.bytes) / sums.count;
  if (rest < 0) slope = sums.seconds / sums.bytes;  // the line through zero
  times.seconds_per_byte = slope;
  times.seconds_per_bucket = std::max(0.0, rest);
}

double end_of_reduction(const StepTimes& times, const std::vector<bool>& is_end) {
  double end = 0;
  double ready = 0;
  double cost = times.seconds_per_bucket;
  for (std::size_t i = 0; i < times.ready.size(); ++i) {
    ready = std::max(ready, times.ready[i]);
    cost += times.seconds_per_byte * static_cast<double>(times.bytes[i]);
    if (!is_end[i] && i + 1 < times.ready.size()) continue;
    end = std::max(end, ready) + cost;
    ready = 0;
    cost = times.seconds_per_bucket;
  }
  return end;
}

std::vector<bool> tune_boundaries(const StepTimes& times, std::size_t cap_bytes) {
  const std::size_t count = times.ready.size();
  struct Best {
    double end = std::numeric_limits<double>::infinity();
    std::size_t buckets = 0;
    std::size_t previous = 0;
  };
  // best[i]: of the first i parameters. Ends only grow with more parameters, so that the best of a
  // part is part of a best of the whole.
  std::vector<Best> best(count + 1);
  best[0] = {0, 0, 0};
  for (std::size_t last = 1; last <= count; ++last) {
    double ready = 0;
    std::size_t bytes = 0;
    for (std::size_t first = last; first-- > 0;) {
      ready = std::max(ready, times.ready[first]);
      bytes += times.bytes[first];
      if (bytes > cap_bytes && first + 1 != last) break;
      const double end = std::max(best[first].end, ready) + times.seconds_per_bucket +
                         times.seconds_per_byte * static_cast<double>(bytes);
      const std::size_t buckets = best[first].buckets + 1;
      if (end < best[last].end || (end == best[last].end && buckets < best[last].buckets)) {
        best[last] = {end, buckets, first};
      }
    }
  }
  std::vector<bool> is_end(count, false);
  for (std::size_t last = count; last > 0; last = best[last].previous) is_end[last - 1] = true;
  return is_end;
}

}  // namespace lockstep
