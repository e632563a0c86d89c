// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>
#include <torch/arg.h>

#include <chrono>
#include <optional>

namespace lockstep {

struct ProcessGroupOptions {
  /// What carries the traffic.
  TORCH_ARG(Backend, backend) = Backend::Auto;
  /// How long a collective, the first meeting included, may wait for other ranks. Must be positive.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(5);
  /// Rank, world size and job id, instead of what the launch variables say. Tests run ranks as
  /// threads with it.
  TORCH_ARG(std::optional<LaunchEnvironment>, environment) = std::nullopt;
};

}  // namespace lockstep
