// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/worker_failed_error.h>

namespace lockstep::workers {

/// Says in an error how a process ended, by its wait status.
void describe_end(WorkerFailedError::Context& context, int wait_status);

}  // namespace lockstep::workers
