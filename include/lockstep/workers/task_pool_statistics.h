// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstdint>

namespace lockstep {

/// What has become of the tasks of a `TaskPool`.
///
/// Thread-safety: a value.
struct LOCKSTEP_API TaskPoolStatistics {
  std::uint64_t submitted = 0;         ///< all tasks
  std::uint64_t finished = 0;          ///< with a result
  std::uint64_t failed = 0;            ///< with an exception, with their worker, or with the pool
  std::uint64_t cancelled = 0;         ///< before they began
  std::uint64_t running = 0;           ///< a worker is at them
  std::uint64_t waiting = 0;           ///< for a worker
  std::uint64_t workers = 0;           ///< less than the options' where some could not start
  std::uint64_t replaced_workers = 0;  ///< worker processes that ended
  std::uint64_t leased =
      0;  ///< blocks of results that lie in the pool's memory and that are in use
  std::uint64_t copied = 0;  ///< blocks of results that were copied since too many were in use
};

}  // namespace lockstep
