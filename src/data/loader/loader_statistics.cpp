// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/loader_statistics.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace lockstep::data {
namespace {

// Below this share of the time nothing is gained by a faster loader.
constexpr double kNoStall = 0.05;
constexpr double kMostOfTheTime = 0.5;

std::string percent(double share) {
  return std::to_string(std::lround(100 * share)) + " %";
}

}  // namespace

std::string LoaderStatistics::bottleneck() const {
  if (batches == 0) return "no batch has been taken yet";
  const auto stalled = "the program waits for data " + percent(stall_share()) + " of the time";
  if (stall_share() < kNoStall) return "consumer: " + stalled + ", so the loader keeps up";
  const double waiting = std::max(0.0, busy_seconds - compute_seconds - delayed_seconds);
  if (busy_seconds + idle_seconds > 0 &&
      idle_seconds > kMostOfTheTime * (busy_seconds + idle_seconds)) {
    return "transport: " + stalled + " while the workers are idle " +
           percent(idle_seconds / (busy_seconds + idle_seconds)) +
           " of theirs; raise prefetch_batches, or let go of batches earlier";
  }
  if (waiting > kMostOfTheTime * busy_seconds) {
    return "storage: " + stalled + ", and the workers wait for reads " +
           percent(waiting / busy_seconds) + " of theirs; more workers overlap the reads";
  }
  if (delayed_seconds > kMostOfTheTime * busy_seconds) {
    return "decode: " + stalled + ", and the workers want for a free core " +
           percent(delayed_seconds / busy_seconds) + " of theirs; use fewer workers, or more cores";
  }
  return "decode: " + stalled + ", and the workers compute " +
         percent(busy_seconds > 0 ? compute_seconds / busy_seconds : 0) +
         " of theirs; use more workers, or make samples cheaper";
}

}  // namespace lockstep::data
