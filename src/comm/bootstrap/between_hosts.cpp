// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/between_hosts.h"

#include <lockstep/core/error.h>

namespace lockstep {

BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                  const Capabilities& capabilities) {
  // torchrun starts no MPI; nor can a build without it.
  const bool is_mpi_launch = environment.launcher != Launcher::Torchrun;
  if (capabilities.has_mpi && is_mpi_launch) return {Backend::Mpi, ""};
  const std::string why_not =
      is_mpi_launch ? "this build has no MPI" : to_string(environment.launcher) + " starts no MPI";
  if (capabilities.has_gloo && capabilities.has_rendezvous) return {Backend::Gloo, why_not};
  throw LaunchError("no backend for ranks on several hosts: " + why_not +
                    (capabilities.has_gloo
                         ? ", and MASTER_ADDR and MASTER_PORT, which Gloo needs, are not set"
                         : ", and this build has no gloo"));
}

}  // namespace lockstep
