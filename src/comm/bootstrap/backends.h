// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>

#include <chrono>
#include <memory>
#include <string_view>

#include "comm/bootstrap/surroundings.h"

namespace lockstep {

/// What there is to know of a backend: a row in backends.cpp.
struct BackendRow {
  Backend backend;
  std::string_view name;
  /// Null, as `make`, for what carries no traffic by itself. Throws: `LaunchError` where this
  /// launch or this build cannot have it.
  void (*check)(const LaunchEnvironment& environment, const Surroundings& surroundings);
  /// Collective. Throws: `LaunchError`.
  std::shared_ptr<ProcessGroup> (*make)(const LaunchEnvironment& environment,
                                        std::chrono::milliseconds timeout);
};

/// One that can carry all of a group's traffic; else null.
[[nodiscard]] const BackendRow* find_backend(Backend backend);

}  // namespace lockstep
