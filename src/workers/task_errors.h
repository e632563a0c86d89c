// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/task_error.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "workers/failure.h"
#include "workers/pool_watch.h"

namespace lockstep::workers {

/// What the exception that is being handled says, without the stack of a `c10::Error`. Call it in a
/// catch block only.
[[nodiscard]] std::string current_task_exception_text();

/// What a program catches of an item that failed; `attempts`: how many workers it may end.
[[nodiscard]] TaskError error_of(std::size_t item, const Failure& failure, std::uint32_t attempts);

/// Why no worker of `pool` ("TaskPool") works any more.
[[nodiscard]] WorkerFailedError error_of(const std::string& pool, const PoolLoss& loss);

}  // namespace lockstep::workers
