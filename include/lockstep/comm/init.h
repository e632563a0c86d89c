// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <lockstep/comm/options.h>
#include <lockstep/comm/process_group.h>

#include <memory>

namespace lockstep {

/// Waits for the rendezvous of all ranks of this job and returns the group of them. A process that
/// no launcher started gets a world of one, in which every collective works.
///
/// Blocks: the calling thread, until all ranks have come or the timeout has passed. The Mpi backend
/// starts inside MPI, which has no deadline.
/// Collective: all ranks of the job call it.
/// Thread-safety: one thread at a time.
/// Throws: `LaunchError` for launch variables that are inconsistent or garbled, a backend that this
/// launch or this build does not have, and for ranks that did not come in time (named).
[[nodiscard]] LOCKSTEP_API std::shared_ptr<ProcessGroup> init_process_group(
    const ProcessGroupOptions& options = {});

/// Gives this rank its device: one GPU a rank, the CPU where there is none. See
/// `bind_device(int)`.
[[nodiscard]] LOCKSTEP_API c10::Device bind_device(const ProcessGroup& group);

}  // namespace lockstep
