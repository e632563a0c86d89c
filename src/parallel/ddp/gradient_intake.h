// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/ddp/reducer_context.h"
#include "parallel/ddp/reduction_cycle.h"

namespace lockstep {

/// Puts parameters' gradients into their buckets, and aside what a bucket cannot take.
///
/// From then on a parameter has no gradient, until its average is given. Thread-safety: guarded by
/// the reducer's lock.
class GradientIntake {
 public:
  /// `cycle`: outlives this.
  GradientIntake(const ReducerContext& context, const ReductionCycle& cycle)
      : context_(context), cycle_(cycle) {}

  /// `incoming`: what autograd made the gradient of.
  void take(ReducedParameter& parameter, const at::Tensor& incoming = {});
  /// Another gradient after those of earlier backwards, when the bucket has been launched.
  void take_late(ReducedParameter& parameter);
  /// At the end of backward: of all that are in buckets and were not taken.
  void take_what_is_left();
  /// Instead of a backward: nothing, of all.
  void take_zeros();

 private:
  [[nodiscard]] GradientBucket& bucket_of(const ReducedParameter& parameter) {
    return context_.buckets.at(parameter.bucket);
  }

  ReducerContext context_;
  const ReductionCycle& cycle_;
};

}  // namespace lockstep
