// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstring>

#include "workers/exception_text.h"
#include "workers/worker_host.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// Runs one worker to its end, in its process or thread. Returns the exit status: 0, or 1 when it
/// threw and `record.message` says what.
inline int run_worker(WorkerRecord& record, const WorkerProgram& program, std::size_t worker) {
  try {
    program.run(worker);
    return 0;
  } catch (...) {
    std::strncpy(record.message, current_exception_text().c_str(), WorkerRecord::kMessageBytes - 1);
  }
  return 1;
}

}  // namespace lockstep::workers
