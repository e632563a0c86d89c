// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>
#include <torch/arg.h>

#include <chrono>
#include <optional>

namespace lockstep {

/// Options of `init_process_group`. They are the same on all ranks, except `environment`.
///
/// Thread-safety: a value.
struct ProcessGroupOptions {
  /// How the ranks communicate.
  TORCH_ARG(Backend, backend) = Backend::Auto;
  /// How long a collective, or the rendezvous before them, may wait for other ranks. Must be
  /// positive.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(5);
  /// Whether NCCL's collectives, too, are compared over all ranks before they start. It costs an
  /// exchange between the CPUs in every call, and `Work::wait()` blocks the host until that is
  /// done. All other backends always compare. The same on all ranks.
  TORCH_ARG(bool, check_calls) = false;
  /// Rank, world size and job id, instead of what the launch variables say. Tests run ranks as
  /// threads with it.
  TORCH_ARG(std::optional<LaunchEnvironment>, environment) = std::nullopt;
};

}  // namespace lockstep
