// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/pipeline/action.h>

#include <cstdint>
#include <vector>

namespace lockstep::pipeline {

/// What the actions of one kind of one stage took.
///
/// Units: seconds.
/// Thread-safety: a value.
struct ActionTimes {
  /// What was computed.
  ActionKind kind = ActionKind::Forward;
  /// In which stage.
  std::int64_t stage = 0;
  /// How often.
  std::uint64_t count = 0;
  /// How long, all together. Waiting for other ranks does not count.
  double seconds = 0;

  /// How long one took; 0 where there was none.
  [[nodiscard]] double mean() const noexcept {
    return count == 0 ? 0 : seconds / static_cast<double>(count);
  }
};

/// What the steps of a pipeline did on this rank since its construction or since
/// `Pipeline::reset_statistics`. Evaluation does not count.
///
/// Units: seconds, bytes.
/// Thread-safety: a value.
struct PipelineStatistics {
  /// One entry for each kind and stage that occurred, in the order in which they first did. The
  /// last backward of a stage in `DistributedDataParallel` is a `Backward`, also where the plan
  /// divides it.
  std::vector<ActionTimes> actions;
  /// How many steps ended.
  std::uint64_t steps = 0;
  /// How long they took, all together.
  double step_seconds = 0;
  /// How long this rank waited for others in them, but for the allocation of slots after the first.
  double waited_seconds = 0;
  /// Activations and gradients that this rank gave to other ranks.
  std::uint64_t sent_bytes = 0;
  /// How often what it gave lay in a slot of shared memory.
  std::uint64_t slots_filled = 0;
  /// The most microbatches that this rank held at once, each stage counted for itself: from the
  /// forward until the backward that makes the gradients of the weights.
  std::int64_t peak_held = 0;

  /// What the actions of that kind and stage took; zeros where there was none.
  [[nodiscard]] LOCKSTEP_API ActionTimes times(ActionKind kind, std::int64_t stage) const;
};

}  // namespace lockstep::pipeline
