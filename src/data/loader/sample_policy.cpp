// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/sample_policy.h"

#include <lockstep/core/logging.h>
#include <lockstep/data/loader/worker_error.h>

#include <algorithm>
#include <vector>

#include "data/loader/worker_failure.h"

namespace lockstep::data::detail {

ItemsBehind items_behind(const PassPlan& plan, std::size_t batch) {
  ItemsBehind behind;
  behind.fill(workers::kLeftOut);
  std::size_t found = 0;
  std::vector<std::int64_t> items;
  try {
    while (found < behind.size() && ++batch < plan.batches) {
      items.clear();
      plan.items(batch, items);
      const auto taken = std::min(items.size(), behind.size() - found);
      std::copy_n(items.begin(), taken, behind.begin() + static_cast<std::ptrdiff_t>(found));
      found += taken;
    }
  } catch (...) {  // for that batch's turn
  }
  return behind;
}

void MissingSampleWarning::give(const SampleSource& source, SamplePolicy policy,
                                const MissingSample& sample) {
  if (is_over_) return;
  is_over_ = true;
  WorkerError::Context context;
  context.sample = sample.index;
  name_sample(context, source);
  std::string text = "data loader: ";
  text += sample.index ? "sample " + std::to_string(*sample.index) : "a sample";
  if (!context.path.empty()) text += " (" + context.path + ")";
  text += policy == SamplePolicy::Replace && !source.open ? " is replaced" : " is left out";
  text += " (on_failed_sample), because of ";
  if (!sample.exception_type.empty()) text += sample.exception_type + ": ";
  logging::warning(text + sample.message + "; further ones are counted, in statistics()");
}

}  // namespace lockstep::data::detail
