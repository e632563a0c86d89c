// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/workers/task_cancelled_error.h>

namespace lockstep {

TaskCancelledError::TaskCancelledError(const std::string& text) : DistError(text) {}

TaskQueueFullError::TaskQueueFullError(const std::string& text) : DistError(text) {}

}  // namespace lockstep
