// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/profiler.h>

#include <algorithm>
#include <cstdint>

namespace lockstep::training {

namespace {

// So that sums of them cannot overflow; the job will have ended before.
constexpr std::int64_t kMostSteps = std::int64_t{1} << 60;

std::int64_t bounded(std::int64_t steps) {
  return std::min(steps, kMostSteps);
}

}  // namespace

ProfilerAction scheduled_action(const ProfilerOptions& options, std::int64_t step) {
  TORCH_CHECK(options.wait() >= 0 && options.warmup() >= 0 && options.active() >= 1 &&
                  options.repeat() >= 0 && options.skip_first() >= 0,
              "Profiler: wait is ", options.wait(), ", warmup ", options.warmup(), ", active ",
              options.active(), ", repeat ", options.repeat(), ", skip_first ",
              options.skip_first(), "; active is 1 or more, and the others are 0 or more");
  TORCH_CHECK(step >= 0, "scheduled_action: step ", step, "; steps count from 0");
  if (options.only_on_request() || step < options.skip_first()) return ProfilerAction::None;
  const auto wait = bounded(options.wait());
  const auto warmup = bounded(options.warmup());
  std::int64_t since = bounded(step - options.skip_first());
  if (options.skip_first_wait()) since += wait;
  const std::int64_t cycle = wait + warmup + bounded(options.active());
  if (options.repeat() > 0 && since / cycle >= options.repeat()) return ProfilerAction::None;
  const std::int64_t place = since % cycle;
  if (place < wait) return ProfilerAction::None;
  if (place < wait + warmup) return ProfilerAction::Warmup;
  return place < cycle - 1 ? ProfilerAction::Record : ProfilerAction::RecordAndSave;
}

}  // namespace lockstep::training
