// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>

#include <string>

#include "comm/bootstrap/capabilities.h"

namespace lockstep {

/// How ranks of several hosts are connected, for groups that are built on it.
struct BetweenHosts {
  /// Mpi or Gloo: through it the ranks meet.
  Backend backend = Backend::Mpi;
  std::string reason;  ///< why it is not Mpi
  /// Whether the data goes over TCP sockets of our own; otherwise it goes over `backend`.
  bool is_over_tcp = true;
  /// Whether MPI takes its place where it is found to be much faster.
  bool may_be_mpi = false;
};

/// `wanted`: what `LOCKSTEP_BETWEEN_HOSTS` says: nothing, `tcp`, `mpi`, `gloo`. Throws:
/// `LaunchError` for another word, and for a launch that cannot be served so.
[[nodiscard]] BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                                const Capabilities& capabilities,
                                                const std::string& wanted);
/// As the variable says. Throws: as above.
[[nodiscard]] BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                                const Capabilities& capabilities);

}  // namespace lockstep
