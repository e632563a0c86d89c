// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/hierarchical/mpi_reduction.h"

namespace lockstep {

std::unique_ptr<HostReduction> make_mpi_reduction(Transport&, at::ScalarType, ReduceOp) {
  throw LaunchError("this build of Lockstep has no MPI");
}

}  // namespace lockstep
