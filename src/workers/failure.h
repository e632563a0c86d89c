// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lockstep::workers {

/// How an item came to nothing.
enum class FailureKind : std::uint32_t { Exception, Ended, NoProgress, TooMuchMemory };

/// What is known of an item that failed.
struct Failure {
  FailureKind kind = FailureKind::Exception;
  std::size_t position = 0;  ///< of the item within the task
  std::size_t worker = 0;
  int pid = 0;
  int wait_status = 0;     ///< of a worker that ended
  std::int64_t item = -1;  ///< of a note: the task's item may be another one by now
  std::string type;        ///< of the exception
  std::string message;
};

}  // namespace lockstep::workers
