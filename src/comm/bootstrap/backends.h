// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>

#include <chrono>
#include <memory>
#include <string_view>

#include "comm/bootstrap/capabilities.h"

namespace lockstep {

/// A backend in the table of backends.cpp.
struct BackendRow {
  Backend backend;
  std::string_view name;
  /// Throws: `LaunchError` where this launch or this build cannot have the backend. Null, as
  /// `make`, for one that is no transport of a whole group by itself.
  void (*check)(const LaunchEnvironment& environment, const Capabilities& capabilities);
  /// Collective. Throws: `LaunchError`.
  std::shared_ptr<ProcessGroup> (*make)(const LaunchEnvironment& environment,
                                        std::chrono::milliseconds timeout);
};

/// The row of a backend that can connect a whole group by itself; null for any other.
[[nodiscard]] const BackendRow* find_backend(Backend backend);

}  // namespace lockstep
