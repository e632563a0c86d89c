// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>

#include <string>

#include "comm/bootstrap/capabilities.h"

namespace lockstep {

/// The backend that connects ranks of several hosts, for groups that are built on one.
struct BetweenHosts {
  Backend backend = Backend::Mpi;  ///< Mpi or Gloo
  std::string reason;              ///< why it is not Mpi
};

/// Throws: `LaunchError` for a launch that neither of them can serve.
[[nodiscard]] BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                                const Capabilities& capabilities);

}  // namespace lockstep
