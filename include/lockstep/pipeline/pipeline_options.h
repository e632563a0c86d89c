// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/schedule.h>
#include <torch/arg.h>

#include <cstdint>

namespace lockstep::pipeline {

/// What a `Pipeline` is told. All ranks give the same. Those that nobody set are for one rank:
/// `one_f_one_b()` needs as many microbatches as ranks.
///
/// Thread-safety: a value.
struct PipelineOptions {
  /// Into how many parts a batch is cut. More of them leave ranks idle for less of the time, and
  /// each is less work for a kernel.
  TORCH_ARG(std::int64_t, microbatches) = 1;
  /// The order in which each rank computes.
  TORCH_ARG(Schedule, schedule) = one_f_one_b();
  /// Whether a step divides the gradients of its parameters by the number of microbatches at its
  /// end, and weighs microbatches that differ in size: gradients are then those of the mean over
  /// the batch, if the loss is a mean over its microbatch. False: they are added up, as for losses
  /// that are sums.
  TORCH_ARG(bool, scale_gradients) = true;
  /// Whether ranks that share memory leave what they send in slots of it, from the second step on,
  /// so that the next stage reads it where it is. The slots take the memory of the largest message
  /// for each microbatch that can be on its way. False: everything travels as messages.
  TORCH_ARG(bool, activation_slots) = true;
};

}  // namespace lockstep::pipeline
