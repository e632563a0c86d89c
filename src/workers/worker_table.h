// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <span>

#include "workers/pool_events.h"
#include "workers/worker_record.h"

namespace lockstep::workers {

/// The records of a pool's workers, and the events by which its processes wake each other. A view
/// of shared memory.
struct WorkerTable {
  PoolEvents events;
  std::span<WorkerRecord> workers;
};

}  // namespace lockstep::workers
