// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "workers/worker_board.h"

namespace lockstep::workers {

/// What the processes of a pool run.
struct WorkerProgram {
  /// One worker, until the board says stop. What it throws becomes the worker's `message` and exit
  /// status 1.
  std::function<void(std::size_t worker)> run;
  /// Inherited descriptors that stay open in all processes.
  std::vector<int> keep_descriptors;
};

/// The body of the nursery process: forks the workers, reaps them, publishes how they ended, and
/// ends with them when `owner_socket` reads a byte (an orderly stop) or end of file (the owner
/// died).
///
/// Stays single-threaded and runs none of the caller's code, so that it can fork at any time: the
/// place where a dead worker will be replaced.
///
/// Blocks: the calling process, in slices, until told to stop.
[[nodiscard]] int run_nursery(const WorkerBoard& board, const WorkerProgram& program,
                              int owner_socket);

}  // namespace lockstep::workers
