// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include "workers/worker_host.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// Whom the fork server works for.
struct Owner {
  pid_t pid = 0;
  int socket = -1;  ///< reads end of file at its death, if no process that it forked has a copy
};

/// The body of the fork server's process: forks the workers, reaps them, replaces them, kills those
/// that hang or grow beyond their limit, and ends with them when the owner's socket reads a byte
/// (an orderly stop) or when the owner is gone.
///
/// Stays single-threaded and runs none of the caller's code, so that it can fork at any time.
///
/// Blocks: the calling process, in slices, until told to stop.
[[nodiscard]] int run_fork_server(const WorkerTable& table, const WorkerProgram& program,
                                  const Owner& owner);

}  // namespace lockstep::workers
