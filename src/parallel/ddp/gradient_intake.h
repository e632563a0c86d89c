// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/ddp/reducer_context.h"
#include "parallel/ddp/reduction_iteration.h"

namespace lockstep {

/// Collects parameters' gradients: puts them into their buckets, and sets aside what a bucket
/// cannot take.
///
/// A parameter whose gradient was collected has none until its average is written.
/// Thread-safety: guarded by the reducer's lock.
class GradientIntake {
 public:
  /// `iteration` outlives this.
  GradientIntake(const ReducerContext& context, const ReductionIteration& iteration)
      : context_(context), iteration_(iteration) {}

  /// Notes a gradient that adds up on this rank, since backwards average nothing at present.
  /// `incoming`: what autograd has added to the gradient, here and below.
  void note_waiting(ReducedParameter& parameter, const at::Tensor& incoming);
  /// Collects a gradient that autograd has just made. Returns whether it may be the parameter's
  /// last one in this backward, as far as the one before tells: then its place in its bucket is
  /// filled.
  [[nodiscard]] bool collect(ReducedParameter& parameter, const at::Tensor& incoming);
  /// Does the same for a gradient that another model, which shares the parameter, has collected.
  [[nodiscard]] bool skip_gradient_of_another(ReducedParameter& parameter);
  /// Collects, at the end of backward, the gradients of all parameters whose places are not filled.
  void collect_rest();
  /// Fills all places with zeros, for a rank that has no data.
  void collect_zeros();

 private:
  void put(ReducedParameter& parameter, const at::Tensor& incoming = {});
  /// Sets aside a gradient that came when the bucket had been launched.
  void collect_late(ReducedParameter& parameter);
  [[nodiscard]] GradientBucket& bucket_of(const ReducedParameter& parameter) {
    return context_.buckets.at(parameter.bucket);
  }

  ReducerContext context_;
  const ReductionIteration& iteration_;
};

}  // namespace lockstep
