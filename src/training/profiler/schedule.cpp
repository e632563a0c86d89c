// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/profiler.h>

namespace lockstep::training {

ProfilerAction scheduled_action(const ProfilerOptions& options, std::int64_t step) {
  TORCH_CHECK(options.wait() >= 0 && options.warmup() >= 0 && options.active() >= 1 &&
                  options.repeat() >= 0 && options.skip_first() >= 0,
              "Profiler: wait is ", options.wait(), ", warmup ", options.warmup(), ", active ",
              options.active(), ", repeat ", options.repeat(), ", skip_first ",
              options.skip_first(), "; active is 1 or more, and the others are 0 or more");
  TORCH_CHECK(step >= 0, "scheduled_action: step ", step, "; steps count from 0");
  if (options.only_on_request() || step < options.skip_first()) return ProfilerAction::None;
  std::int64_t since = step - options.skip_first();
  if (options.skip_first_wait()) since += options.wait();
  const std::int64_t cycle = options.wait() + options.warmup() + options.active();
  if (options.repeat() > 0 && since / cycle >= options.repeat()) return ProfilerAction::None;
  const std::int64_t place = since % cycle;
  if (place < options.wait()) return ProfilerAction::None;
  if (place < options.wait() + options.warmup()) return ProfilerAction::Warmup;
  return place < cycle - 1 ? ProfilerAction::Record : ProfilerAction::RecordAndSave;
}

}  // namespace lockstep::training
