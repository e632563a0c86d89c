// SPDX-License-Identifier: BSD-3-Clause
#include "workers/process_end.h"

#include <sys/wait.h>

#include "native/posix/child_process.h"

namespace lockstep::workers {

void describe_end(WorkerFailedError::Context& context, int wait_status) {
  context.failure = WIFSIGNALED(wait_status) ? WorkerFailure::Killed : WorkerFailure::Exited;
  if (WIFSIGNALED(wait_status)) context.signal = WTERMSIG(wait_status);
  if (WIFEXITED(wait_status)) context.exit_status = WEXITSTATUS(wait_status);
  context.message = native::describe_wait_status(wait_status);
}

}  // namespace lockstep::workers
