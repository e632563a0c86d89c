// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace lockstep::data {

struct LOCKSTEP_API DataLoaderOptions {
  static constexpr std::int64_t kMaxWorkers = 1024;

  /// Samples in a batch; at least 1. The last batch of an epoch may have fewer.
  TORCH_ARG(std::int64_t, batch_size) = 1;
  /// Worker processes, 0 to `kMaxWorkers`; 0 builds the batches in the calling thread. All numbers
  /// give the same bits.
  TORCH_ARG(std::int64_t, workers) = 0;
  /// Leaves out a last batch that is not full.
  TORCH_ARG(bool, drop_last) = false;
  /// Batches that are prepared ahead for each worker, 1 to 64.
  TORCH_ARG(std::int64_t, prefetch_batches) = 2;
  /// How long a batch may make no progress before its turn ends in a `WorkerError`. The next sample
  /// restarts the clock.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::seconds(60);
  /// Runs in each worker process, before its first sample, with the worker's number. Not called for
  /// `workers(0)`.
  TORCH_ARG(std::function<void(std::size_t worker)>, worker_init);
};

}  // namespace lockstep::data
