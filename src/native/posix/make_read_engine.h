// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>

#include "native/posix/file_system.h"
#include "native/posix/read_engine.h"

namespace lockstep::native {

/// How a `ReadEngine` is made.
struct ReadEngineOptions {
  std::size_t depth = 32;     ///< requests in flight
  std::size_t threads = 8;    ///< of a pool; one that is not needed is not started
  bool prefers_ring = false;  ///< io_uring, where the kernel has it and lets this process use it
};

/// A ring where it is preferred and can be had: the kernel may lack it (ENOSYS), or a container may
/// forbid it (EPERM). Else a pool.
[[nodiscard]] std::unique_ptr<ReadEngine> make_read_engine(
    const ReadEngineOptions& options, FileSystem& files = FileSystem::of_machine());

}  // namespace lockstep::native
