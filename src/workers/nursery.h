// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "workers/worker_board.h"
#include "workers/worker_host.h"

namespace lockstep::workers {

/// The body of the nursery process: forks the workers, reaps them, replaces them, kills those that
/// hang or grow beyond their limit, and ends with them when `owner_socket` reads a byte (an orderly
/// stop) or end of file (the owner died).
///
/// Stays single-threaded and runs none of the caller's code, so that it can fork at any time.
///
/// Blocks: the calling process, in slices, until told to stop.
[[nodiscard]] int run_nursery(const WorkerBoard& board, const WorkerProgram& program,
                              int owner_socket);

}  // namespace lockstep::workers
