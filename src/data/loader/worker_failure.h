// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/loader/worker_error.h>

#include <chrono>

#include "workers/shared_memory_channel.h"

namespace lockstep::data::detail {

/// Asks the dataset where `context.sample` comes from; a dataset that throws does not say.
void name_sample(WorkerError::Context& context, const SampleSource& source) noexcept;

/// What a worker said about an item, in the words of a `WorkerError`.
[[nodiscard]] WorkerError::Context context_of(const workers::Failure& failure,
                                              std::chrono::milliseconds timeout);

/// How worker `worker` ended, that is not replaced any more.
[[nodiscard]] WorkerError::Context end_of(const workers::WorkerRecord& record, std::size_t worker,
                                          std::chrono::milliseconds start_timeout);

/// How the process ended that watches over the workers.
[[nodiscard]] WorkerError::Context end_of_supervisor(int pid, int wait_status);

}  // namespace lockstep::data::detail
