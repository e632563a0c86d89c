// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/mpi_process_group.h"

namespace lockstep {

namespace {

[[noreturn]] void refuse() {
  throw LaunchError(
      "this build of Lockstep has no MPI backend; build it with -DLOCKSTEP_WITH_MPI=ON, or run all "
      "ranks on one host");
}

}  // namespace

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment&,
                                                     std::chrono::milliseconds) {
  refuse();
}

std::shared_ptr<ProcessGroup> make_hierarchical_process_group(const LaunchEnvironment&,
                                                              std::chrono::milliseconds) {
  refuse();
}

}  // namespace lockstep
