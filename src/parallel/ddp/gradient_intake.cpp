// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/gradient_intake.h"

namespace lockstep {

void GradientIntake::take(ReducedParameter& parameter, const at::Tensor& incoming) {
  const at::Tensor& gradient = parameter.tensor.grad();
  GradientBucket& bucket = bucket_of(parameter);
  const bool has_taken = bucket.has_taken(parameter.place);
  // Nothing has come in this cycle; or what has come is of no samples, and is dropped if others
  // have some.
  const bool may_stay = (!parameter.is_used || cycle_.scale() == 0) && !has_taken;
  if (may_stay) parameter.kept = gradient;
  const bool is_sparse = gradient.defined() && gradient.layout() != at::kStrided && !has_taken;
  if (parameter.is_sparse || is_sparse) {
    parameter.is_sparse = true;
    if (gradient.defined()) parameter.set_aside();
    return bucket.take_nothing(parameter.place);
  }
  bucket.take(parameter.place, parameter.tensor, cycle_.scale(), incoming, may_stay);
}

// A part of the model runs several times within this backward. It is reduced once more, at the end.
void GradientIntake::take_late(ReducedParameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  const bool is_late = gradient.defined() && !parameter.is_sparse;
  TORCH_CHECK(!is_late || cycle_.has_summary(), "DistributedDataParallel: parameter '",
              parameter.name,
              "' got more gradients than in the first backward, which static_graph excludes");
  parameter.is_late = parameter.is_late || is_late;
  if (gradient.defined()) parameter.set_aside();
}

void GradientIntake::take_what_is_left() {
  for (ReducedParameter& parameter : context_.parameters) {
    if (!parameter.is_planned) continue;
    GradientBucket& bucket = bucket_of(parameter);
    if (bucket.has_taken(parameter.place)) continue;
    // What another model made the gradient of this backward is no part of this one's.
    if (parameter.is_given_by_another(context_.reducer)) {
      bucket.take_nothing(parameter.place);
    } else {
      take(parameter);
    }
  }
}

// Whatever gradients this rank still has belong to no data of this cycle. They are dropped, so that
// a step cannot take one that the others no longer have. One that another model has given in this
// round stays, if this one has none.
void GradientIntake::take_zeros() {
  for (ReducedParameter& parameter : context_.parameters) {
    parameter.is_used = false;
    parameter.kept.reset();
    at::Tensor& gradient = parameter.tensor.mutable_grad();
    if (parameter.is_given_by_another(context_.reducer)) {
      if (!parameter.is_planned) continue;  // that one's to drop
      parameter.kept = gradient;
    }
    gradient.reset();
    if (parameter.is_planned) bucket_of(parameter).take_nothing(parameter.place);
  }
}

}  // namespace lockstep
