// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>
#include <lockstep/data/loader/worker_error.h>

#include <chrono>

#include "workers/failure.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {

/// Asks the dataset where `context.sample` comes from. Where the dataset throws, the path stays
/// empty.
void name_sample(WorkerError::Context& context, const SampleSource& source) noexcept;

/// What the exception that is being handled says of a failure in this process. Call it in a catch
/// block only.
[[nodiscard]] WorkerError::Context context_of_exception();

/// Says in the words of a `WorkerError` what a worker said about an item.
[[nodiscard]] WorkerError::Context context_of(const workers::Failure& failure,
                                              std::chrono::milliseconds timeout);

/// Says how worker `worker` ended, which is not replaced any more.
[[nodiscard]] WorkerError::Context end_of(const workers::WorkerRecord& record, std::size_t worker,
                                          std::chrono::milliseconds start_timeout);

/// Says how the process ended that watches over the workers.
[[nodiscard]] WorkerError::Context end_of_supervisor(int pid, int wait_status);

}  // namespace lockstep::data::detail
