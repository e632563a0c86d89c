// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <memory>

namespace lockstep {

/// Ranks of one `MPI_COMM_WORLD`: shared memory inside a host, MPI between them. CPU tensors. A
/// build without MPI has the same function; it throws. Collective. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_hierarchical_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout);

}  // namespace lockstep
