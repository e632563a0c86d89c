// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/mpi/make_process_group.h"

namespace lockstep {

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment&,
                                                     std::chrono::milliseconds) {
  throw LaunchError(
      "this build of Lockstep has no MPI backend; build it with -DLOCKSTEP_WITH_MPI=ON, or run all "
      "ranks on one host");
}

}  // namespace lockstep
