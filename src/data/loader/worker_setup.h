// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>

#include <chrono>
#include <memory>

#include "data/loader/worker_job.h"
#include "workers/worker_host.h"

/// How a loader's workers come about: what they share with the rank, and what they run.
namespace lockstep::data::detail {

/// The job of a loader's workers, with the memory that they share with this rank.
/// Throws: `std::system_error` when the memory cannot be had.
[[nodiscard]] std::shared_ptr<WorkerJob> make_job(SampleSource source, const BatchFacts& facts,
                                                  const DataLoaderOptions& options);

/// Starts the workers, of the kind that the options ask for.
/// Throws: `std::system_error` when processes or threads cannot be had.
[[nodiscard]] std::unique_ptr<workers::WorkerHost> start_workers(
    const std::shared_ptr<WorkerJob>& job, const DataLoaderOptions& options);

/// How long a worker may take until it is ready for its first sample.
[[nodiscard]] std::chrono::milliseconds start_timeout_of(const DataLoaderOptions& options);

}  // namespace lockstep::data::detail
