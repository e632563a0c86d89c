// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/arg.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

namespace lockstep {

/// What may be said about calls of a process group, beside their arguments.
struct CallOptions {
  /// How long these calls may wait for other ranks, instead of the group's timeout. Positive.
  TORCH_ARG(std::optional<std::chrono::milliseconds>, timeout) = std::nullopt;
  /// Stands in error messages, and must be the same on all ranks: "loss", "evaluation". Up to 24
  /// bytes are shown; longer names are compared whole.
  TORCH_ARG(std::string, name) = {};
};

/// While it lives, the calls of a group have the options that `ProcessGroup::with` was given.
class [[nodiscard]] CallScope {
 public:
  explicit CallScope(std::function<void()> end) : end_(std::move(end)) {}
  ~CallScope() { end_(); }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

 private:
  std::function<void()> end_;
};

}  // namespace lockstep
