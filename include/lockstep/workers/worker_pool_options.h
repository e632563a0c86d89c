// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/worker_kind.h>
#include <torch/arg.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace lockstep {

/// What a `WorkerPool` is told.
///
/// Thread-safety: a value.
struct LOCKSTEP_API WorkerPoolOptions {
  /// The most `workers`.
  static constexpr std::int64_t kMaxWorkers = 1024;

  /// Workers, 1 to `kMaxWorkers`.
  TORCH_ARG(std::int64_t, workers) = 2;
  /// What the workers are: `Process` or `Thread`.
  TORCH_ARG(WorkerKind, kind) = WorkerKind::Process;
  /// A worker process that is at one item for longer is killed, and the item is tried once more.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(10);
  /// Called in the calling thread after each item, with the number of items that are over and the
  /// number of all.
  TORCH_ARG(std::function<void(std::size_t, std::size_t)>, progress) = nullptr;
};

}  // namespace lockstep
