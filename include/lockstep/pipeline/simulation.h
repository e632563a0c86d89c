// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// How long the actions of a plan take, and what follows for the whole. This header needs no
/// LibTorch.

#include <lockstep/core/export.h>
#include <lockstep/pipeline/action.h>

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::pipeline {

/// What a stage takes for one microbatch.
///
/// Units: any unit of time, the same everywhere.
/// Thread-safety: a value.
struct StageCosts {
  /// A forward.
  double forward = 1;
  /// The gradient of the input.
  double input = 1;
  /// The gradients of the weights.
  double weight = 1;
  /// Both gradients in one backward; `input + weight` where it is not given.
  std::optional<double> backward = {};
};

/// What everything takes. Without `stages`, all stages take the same.
///
///     plan.simulate({.forward = 1, .input = 1, .weight = 1});
///
/// Units: any unit of time, the same everywhere.
/// Thread-safety: a value.
struct SimulationCosts {
  /// A forward of a stage.
  double forward = 1;
  /// The gradient of a stage's input.
  double input = 1;
  /// The gradients of a stage's weights.
  double weight = 1;
  /// Both gradients in one backward; `input + weight` where it is not given.
  std::optional<double> backward = {};
  /// From the end of an action until its result can be used on another rank. It keeps no rank busy.
  double transfer = 0;
  /// One entry a stage, or none. With entries, the four costs of stages above count for nothing.
  std::vector<StageCosts> stages = {};
};

/// What becomes of a plan whose actions take given times.
///
/// Thread-safety: a value.
struct Simulation {
  /// From the begin of the first action to the end of the last one.
  double duration = 0;
  /// The share of `duration` in which the rank that waits longest computes nothing.
  double bubble = 0;
  /// The time in which each rank computes nothing, before its first and after its last action
  /// included.
  std::vector<double> idle;
  /// The most inputs of stages that each rank holds at once: from a forward until the backward of
  /// the same microbatch has the gradients of the weights. A rank with `v` stages holds inputs of
  /// stages that are `v` times as small.
  std::vector<std::int64_t> peak_held;
  /// How many stages each rank has.
  std::int64_t stages_per_rank = 1;
  /// The actions of each rank, in its order.
  std::vector<std::vector<TimedAction>> timeline;

  /// A grid in time, one line a rank, and the figures.
  [[nodiscard]] std::string to_text() const;
};

/// Writes `simulation.to_text()`, without a line end behind it.
LOCKSTEP_API std::ostream& operator<<(std::ostream& out, const Simulation& simulation);

}  // namespace lockstep::pipeline
