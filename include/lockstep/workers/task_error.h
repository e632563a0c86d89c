// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/worker_failed_error.h>

#include <cstddef>

namespace lockstep {

/// An item of a `WorkerPool` has no result: the function threw, or the item ended two workers.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API TaskError : public WorkerFailedError {
 public:
  /// `what()` becomes "item ITEM failed: TYPE: MESSAGE".
  TaskError(std::size_t item, const Context& context);

  /// Number of the item, from 0.
  [[nodiscard]] std::size_t item() const noexcept { return item_; }

 private:
  std::size_t item_;
};

}  // namespace lockstep
