// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "comm/hierarchical/host_reduction.h"

namespace lockstep {

/// A `HostReduction` of MPI's messages. `transport` is an `MpiTransport`. A build without MPI has
/// the same function; it throws.
///
/// Each line is cut into pieces, so that all links are busy at the same time: N bytes forward (2 N
/// or more for short floats, whose sums travel as float) and the result back, in (pieces + hosts)
/// steps.
[[nodiscard]] std::unique_ptr<HostReduction> make_mpi_reduction(Transport& transport,
                                                                at::ScalarType dtype, ReduceOp op);

}  // namespace lockstep
