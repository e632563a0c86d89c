// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/workers/worker_failed_error.h>

#include <utility>

namespace lockstep {

WorkerFailedError::WorkerFailedError(const std::string& text, Context context)
    : DistError(text), context_(std::move(context)) {}

}  // namespace lockstep
