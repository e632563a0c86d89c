// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep {

/// What the workers of a `data::DataLoader` or a `WorkerPool` are. The results are the same.
///
/// Thread-safety: a value.
enum class WorkerKind {
  Process,  ///< forked by a fork server: a crash costs an item's time, nothing is copied
  Thread,   ///< in this process: nothing to fork; a crash or a hang is the program's own
  Spawn,    ///< a fresh run of the program, for libraries that do not live through a fork; a loader
          ///< needs `DataLoaderOptions::spawn` and `maybe_worker_main`, a pool has no such workers
};

}  // namespace lockstep
