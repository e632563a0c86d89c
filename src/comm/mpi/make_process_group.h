// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <memory>

#include "comm/exchange/backend.h"

namespace lockstep {

/// For a group that is built on this backend. Collective. Throws: as `make_mpi_process_group`.
[[nodiscard]] std::unique_ptr<ExchangeBackend> make_mpi_backend(GroupContext& group);

/// Ranks of one `MPI_COMM_WORLD`, on any hosts. CPU tensors. A build without MPI has the same
/// function; it throws. Collective. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_mpi_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout);

}  // namespace lockstep
