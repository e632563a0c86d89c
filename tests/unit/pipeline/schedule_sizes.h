// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/schedule.h>

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::pipeline {

/// A schedule of the library with a size with which it can run.
struct SizedSchedule {
  std::string name;
  std::int64_t ranks;
  std::int64_t stages_per_rank;
  std::int64_t microbatches;

  [[nodiscard]] Plan plan() const {
    return schedule_named(name).plan(ranks, stages_per_rank, microbatches);
  }
  [[nodiscard]] std::string text() const {
    std::string result = name;
    for (const auto number : {ranks, stages_per_rank, microbatches}) {
      result += ' ';
      result += std::to_string(number);
    }
    return result;
  }
};

/// All schedules with all their small sizes.
inline std::vector<SizedSchedule> small_schedules(std::int64_t most_ranks = 4,
                                                  std::int64_t most_microbatches = 9) {
  std::vector<SizedSchedule> found;
  for (std::int64_t p = 1; p <= most_ranks; ++p) {
    for (std::int64_t m = 1; m <= most_microbatches; ++m) {
      const std::int64_t rounds = m < p ? 1 : m / p;
      for (std::int64_t v = 1; v <= 3; ++v) {
        found.push_back({"gpipe", p, v, m});
        if (v == 1 && m >= p) found.push_back({"1f1b", p, v, m});
        if (m % rounds == 0) found.push_back({"interleaved", p, v, m});
        if (m % rounds == 0) found.push_back({"zero_bubble", p, v, m});
        if (v == 2) found.push_back({"zbv", p, v, m});
      }
    }
  }
  return found;
}

/// The result without which this action cannot begin: which kind made it, and in which stage.
/// Written once more for the tests, which shall not believe the library's.
struct Need {
  bool exists = false;
  bool of_forward = false;
  std::int64_t stage = 0;
};

inline Need need_of(const Action& action, std::int64_t stages) {
  const bool forward = action.kind == ActionKind::Forward;
  if (action.kind == ActionKind::BackwardWeight) return {};
  if (forward) return {action.stage > 0, true, action.stage - 1};
  return {action.stage + 1 < stages, false, action.stage + 1};
}

inline bool makes(const Action& action, const Need& need, std::int64_t microbatch) {
  if (!need.exists || action.stage != need.stage || action.microbatch != microbatch) return false;
  if (need.of_forward) return action.kind == ActionKind::Forward;
  return action.kind == ActionKind::Backward || action.kind == ActionKind::BackwardInput;
}

}  // namespace lockstep::pipeline
