// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

#include "data/loader/worker_job.h"

namespace lockstep::data::detail {

/// What a spawned worker must know, as bytes in the channel's user area.
[[nodiscard]] std::string describe_job(const WorkerJob& job, const std::string& dataset,
                                       const std::string& config);

/// In a child of the fork server: becomes a fresh run of the program, as worker `worker`.
[[noreturn]] void become_worker(const workers::TaskChannel& channel, int descriptor,
                                std::size_t worker);

/// Whether this process was started as a worker.
[[nodiscard]] bool is_spawned_worker();

}  // namespace lockstep::data::detail
