// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/retention.h"

#include <algorithm>
#include <cmath>

namespace lockstep::training {

std::set<std::int64_t> kept_generations(const std::vector<CheckpointRecord>& records,
                                        const CheckpointerOptions& options) {
  std::set<std::int64_t> kept;
  const auto newest =
      records.size() -
      std::min<std::size_t>(records.size(), static_cast<std::size_t>(options.keep_last()));
  std::vector<const CheckpointRecord*> rated;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const CheckpointRecord& record = records[i];
    const auto every = options.keep_every_steps();
    if (i >= newest || (every > 0 && record.step % every == 0)) kept.insert(record.generation);
    if (record.metric && !std::isnan(*record.metric)) rated.push_back(&record);
  }
  // Of equal ones, the older.
  std::stable_sort(
      rated.begin(), rated.end(), [&](const CheckpointRecord* a, const CheckpointRecord* b) {
        return options.lower_is_better() ? *a->metric < *b->metric : *a->metric > *b->metric;
      });
  for (std::size_t i = 0; i < rated.size() && i < static_cast<std::size_t>(options.keep_best());
       ++i) {
    kept.insert(rated[i]->generation);
  }
  return kept;
}

}  // namespace lockstep::training
