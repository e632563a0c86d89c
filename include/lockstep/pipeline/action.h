// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// What a rank of a pipeline computes, one piece at a time. This header needs no LibTorch.

#include <lockstep/core/export.h>

#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>

namespace lockstep::pipeline {

/// Which part of a microbatch's way through a stage.
///
/// Thread-safety: a value.
enum class ActionKind : std::uint8_t {
  /// The stage's forward; in text `F`.
  Forward,
  /// The gradient of the stage's input, for which the stage before waits; in text `I`.
  BackwardInput,
  /// The gradients of the stage's weights, for which no stage waits; in text `W`.
  BackwardWeight,
  /// Both gradients in one backward; in text `B`.
  Backward,
};

/// One microbatch in one stage.
///
/// Thread-safety: a value.
struct Action {
  /// Which part of the work it is.
  ActionKind kind = ActionKind::Forward;
  /// The stage, counted from 0 over all ranks.
  std::int64_t stage = 0;
  /// The microbatch, counted from 0.
  std::int64_t microbatch = 0;

  /// Whether all three are equal.
  bool operator==(const Action&) const = default;
};

/// An action and its time.
///
/// Thread-safety: a value.
struct TimedAction {
  /// What was computed.
  Action action;
  /// When it began; the first action of all begins at 0.
  double start = 0;
  /// When it ended.
  double end = 0;
};

/// The text of PyTorch's schedules: stage, kind, microbatch, as in `2F0` and `1I3`.
[[nodiscard]] LOCKSTEP_API std::string to_string(const Action& action);
/// Writes `to_string(action)`.
LOCKSTEP_API std::ostream& operator<<(std::ostream& out, const Action& action);
/// The action with this text.
/// Throws: `c10::Error` for any other text, and for numbers of more than nine digits.
[[nodiscard]] LOCKSTEP_API Action parse_action(std::string_view text);

}  // namespace lockstep::pipeline
