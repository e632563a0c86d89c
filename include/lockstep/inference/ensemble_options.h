// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/inference/combination.h>
#include <lockstep/workers/worker_kind.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>

/// @file
/// Options of an `Ensemble`.
///
/// Thread-safety: values.

namespace lockstep::inference {

/// What `Ensemble::submit` does where the queue is full.
enum class WhenFull {
  Throw,  ///< throws `QueueFull` at once
  Wait,   ///< waits for room, at most until the request's deadline
};

/// How requests become one call of a model, where `EnsembleOptions::max_batch` is more than 1.
enum class BatchForm {
  Rows,     ///< a request has one row or more in its first dimension; rows are put below each other
  Samples,  ///< a request is one sample; samples get a first dimension, which outputs have too
};

/// What an `Ensemble` is told.
struct LOCKSTEP_API EnsembleOptions {
  /// The most `queue`.
  static constexpr std::int64_t kMostRequests = 16384;

  /// Makes one output of the members' outputs.
  TORCH_ARG(Combination, combine) = mean();
  /// So many members must answer; 0: all of them. Once as many have, a request does not wait for a
  /// member whose process is being started again.
  TORCH_ARG(std::int64_t, quorum) = 0;
  /// From `submit`. Members that have not answered then are missing.
  TORCH_ARG(std::chrono::milliseconds, deadline) = std::chrono::minutes(1);
  /// The most rows (`BatchForm::Rows`) or samples in one call of a model. A request that has more
  /// rows is called alone.
  TORCH_ARG(std::int64_t, max_batch) = 1;
  /// What `max_batch` counts, and whether models see samples or what was submitted.
  TORCH_ARG(BatchForm, batch_form) = BatchForm::Rows;
  /// A batch that is not full waits until its oldest request is so old.
  TORCH_ARG(std::chrono::microseconds, max_delay) = std::chrono::microseconds(0);
  /// The most requests that are under way, 1 to `kMostRequests`, and times the members plus 1 at
  /// most 50000.
  TORCH_ARG(std::int64_t, queue) = 64;
  /// What happens to one more.
  TORCH_ARG(WhenFull, when_full) = WhenFull::Throw;
  /// What members run in: `Process` or `Thread`.
  TORCH_ARG(WorkerKind, kind) = WorkerKind::Process;
  /// An input. If there is one, each member is called with it once before it is ready: a first call
  /// takes longer than others.
  TORCH_ARG(at::Tensor, sample);
  /// Whether answers have the members' outputs, too.
  TORCH_ARG(bool, member_outputs) = false;
  /// A member process whose model takes longer for one call is killed and started again. Until then
  /// it takes no other requests: choose it near what a call may take.
  TORCH_ARG(std::chrono::milliseconds, member_timeout) = std::chrono::minutes(1);
  /// The same for making the model and calling it with the sample.
  TORCH_ARG(std::chrono::milliseconds, start_timeout) = std::chrono::minutes(2);
  /// A member process that ends is started again at once; if that one ends too, after this pause,
  /// and after twice the pause before each time that follows. One that has worked for a minute
  /// begins anew.
  TORCH_ARG(std::chrono::milliseconds, restart_pause) = std::chrono::milliseconds(50);
  /// The longest of these pauses.
  TORCH_ARG(std::chrono::milliseconds, longest_restart_pause) = std::chrono::seconds(5);
};

}  // namespace lockstep::inference
