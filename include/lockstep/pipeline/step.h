// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// What a rank of a pipeline does in order, messages included. This header needs no LibTorch.

#include <lockstep/core/export.h>

#include <cstdint>
#include <iosfwd>
#include <string>

namespace lockstep::pipeline {

/// What travels between stages. The two kinds travel apart, so that neither waits for the other.
///
/// Thread-safety: a value.
enum class Traffic : std::uint8_t {
  /// From a stage to the next one: the output of a forward. In text `F`.
  Activation,
  /// From a stage to the one before: the gradient of its input. In text `B`.
  Gradient,
};

/// What a rank does at one point of its order.
///
/// Thread-safety: a value.
enum class StepKind : std::uint8_t {
  /// From here on, the message may arrive; in text `RECV`.
  PostReceive,
  /// The message must have arrived, because the next `Compute` uses it; in text `WAIT`.
  WaitReceive,
  /// `Plan::actions(rank)[action]`.
  Compute,
  /// The result of the `Compute` before goes to a stage of another rank; in text `SEND`.
  Send,
};

/// One point of a rank's order.
///
/// Thread-safety: a value.
struct Step {
  /// What happens.
  StepKind kind = StepKind::Compute;
  /// What travels; of a `Compute` step, this says nothing.
  Traffic traffic = Traffic::Activation;
  /// The stage of this rank that computes, sends or receives.
  std::int64_t stage = 0;
  /// The microbatch.
  std::int64_t microbatch = 0;
  /// The rank at the other end of a message; of a `Compute` step, this rank.
  std::int64_t peer = 0;
  /// The place in `Plan::actions(rank)` of what computes, of whose result is sent, or of what uses
  /// the message.
  std::int64_t action = 0;

  /// Whether all members are equal.
  bool operator==(const Step&) const = default;
};

/// PyTorch's text for messages: `0SEND_F1` on the rank of stage 0, `1RECV_F1` and `1WAIT_F1` on
/// that of stage 1. The text of a `Compute` step says no more than `1COMPUTE1`.
[[nodiscard]] LOCKSTEP_API std::string to_string(const Step& step);
/// Writes `to_string(step)`.
LOCKSTEP_API std::ostream& operator<<(std::ostream& out, const Step& step);

}  // namespace lockstep::pipeline
