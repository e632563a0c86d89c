// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/group/group_core.h"
#include "comm/mpi/make_process_group.h"

namespace lockstep {

std::unique_ptr<ExchangeBackend> make_mpi_backend(GroupContext&) {
  throw LaunchError(
      "this build of Lockstep has no MPI backend; build it with -DLOCKSTEP_WITH_MPI=ON, or run all "
      "ranks on one host");
}

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment& environment,
                                                     std::chrono::milliseconds timeout) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Mpi, environment, timeout, make_mpi_backend));
}

}  // namespace lockstep
