// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/between_hosts.h"

#include <lockstep/core/error.h>

#include "native/posix/environment_variable.h"

namespace lockstep {
namespace {

BetweenHosts select_meeting(const LaunchEnvironment& environment, const Capabilities& capabilities,
                            bool may_be_mpi) {
  // torchrun starts no MPI; nor can a build without it.
  const bool is_mpi_launch = environment.launcher != Launcher::Torchrun;
  if (may_be_mpi && capabilities.has_mpi && is_mpi_launch) return {Backend::Mpi, ""};
  std::string why_not = "LOCKSTEP_BETWEEN_HOSTS asks for gloo";
  if (may_be_mpi) {
    why_not = is_mpi_launch ? "this build has no MPI"
                            : to_string(environment.launcher) + " starts no MPI";
  }
  if (capabilities.has_gloo && capabilities.has_rendezvous) return {Backend::Gloo, why_not};
  throw LaunchError("no backend for ranks on several hosts: " + why_not +
                    (capabilities.has_gloo
                         ? ", and MASTER_ADDR and MASTER_PORT, which Gloo needs, are not set"
                         : ", and this build has no gloo"));
}

}  // namespace

BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                  const Capabilities& capabilities, const std::string& wanted) {
  const bool is_over_tcp = wanted.empty() || wanted == "tcp";
  if (!is_over_tcp && wanted != "mpi" && wanted != "gloo") {
    throw LaunchError("LOCKSTEP_BETWEEN_HOSTS is '" + wanted + "'; it must be tcp, mpi or gloo");
  }
  BetweenHosts between = select_meeting(environment, capabilities, wanted != "gloo");
  between.is_over_tcp = is_over_tcp;
  // Between hosts that are pretended, MPI would be measured in memory.
  between.may_be_mpi =
      wanted.empty() && between.backend == Backend::Mpi && environment.host.empty();
  if (wanted == "mpi" && between.backend != Backend::Mpi) {
    throw LaunchError("LOCKSTEP_BETWEEN_HOSTS is mpi, but " + between.reason);
  }
  return between;
}

BetweenHosts select_between_hosts(const LaunchEnvironment& environment,
                                  const Capabilities& capabilities) {
  return select_between_hosts(environment, capabilities,
                              native::environment_variable("LOCKSTEP_BETWEEN_HOSTS"));
}

}  // namespace lockstep
