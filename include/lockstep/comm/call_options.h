// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/arg.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

namespace lockstep {

/// Options of calls of a process group, beside their arguments.
///
/// Thread-safety: a value.
struct CallOptions {
  /// How long these calls may wait for other ranks, instead of the group's timeout. Positive.
  TORCH_ARG(std::optional<std::chrono::milliseconds>, timeout) = std::nullopt;
  /// Stands in error messages, and must be the same on all ranks: "loss", "evaluation". Up to 24
  /// bytes are shown; longer names are compared whole.
  TORCH_ARG(std::string, name) = {};
};

/// While it lives, the calls of a group have the options that `ProcessGroup::with` was given.
///
/// Thread-safety: as the group's: it ends in a thread that may be in the group.
class [[nodiscard]] CallScope {
 public:
  /// Made by `ProcessGroup::with`. `end` is called when the scope ends.
  explicit CallScope(std::function<void()> end) : end_(std::move(end)) {}
  /// The options before come back.
  ~CallScope() { end_(); }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

 private:
  std::function<void()> end_;
};

}  // namespace lockstep
