// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/gradient_intake.h"

namespace lockstep {

void GradientIntake::note_waiting(ReducedParameter& parameter, const at::Tensor& incoming) {
  const at::Tensor& gradient = parameter.tensor.grad();
  if (!gradient.defined()) return;
  parameter.is_used = true;
  if (!parameter.is_assigned) return;
  bucket_of(parameter).note_waiting(parameter.place, gradient, incoming);
}

bool GradientIntake::collect(ReducedParameter& parameter, const at::Tensor& incoming) {
  const bool has_gradient = parameter.tensor.grad().defined();
  if (has_gradient) parameter.is_used = true;
  if (!parameter.is_assigned) {
    TORCH_CHECK(!has_gradient || iteration_.has_summary(), "DistributedDataParallel: parameter '",
                parameter.name, "' got a gradient, though it was frozen in the last forward, ",
                "which static_graph excludes");
    return false;
  }
  ++parameter.count;
  if (bucket_of(parameter).is_launched()) {
    collect_late(parameter);
    return true;
  }
  if (parameter.count < parameter.expected) return false;
  put(parameter, incoming);
  return true;
}

bool GradientIntake::skip_gradient_of_another(ReducedParameter& parameter) {
  parameter.is_shared = true;
  if (!parameter.is_assigned) return false;
  ++parameter.count;
  if (parameter.count < parameter.expected) return false;
  bucket_of(parameter).put_zero(parameter.place);
  return true;
}

void GradientIntake::put(ReducedParameter& parameter, const at::Tensor& incoming) {
  const at::Tensor& gradient = parameter.tensor.grad();
  GradientBucket& bucket = bucket_of(parameter);
  const bool is_filled = bucket.is_filled(parameter.place);
  // If no rank uses the parameter, it keeps this gradient: one of an earlier backward, where
  // nothing has come in this iteration, or one of no samples, which is dropped if other ranks have
  // some.
  const bool may_stay = (!parameter.is_used || iteration_.scale() == 0) && !is_filled;
  if (may_stay) parameter.kept = gradient;
  // The parameter may have got another shape since that earlier backward.
  if (!parameter.is_used && !has_gradient_of_its_shape(parameter.tensor)) {
    return bucket.put_zero(parameter.place);
  }
  const bool is_sparse = gradient.defined() && gradient.layout() != at::kStrided && !is_filled;
  if (parameter.is_sparse || is_sparse) {
    parameter.is_sparse = true;
    if (gradient.defined()) parameter.set_aside();
    return bucket.put_zero(parameter.place);
  }
  bucket.put(parameter.place, parameter.tensor, iteration_.scale(), incoming, may_stay);
}

// A part of the model runs several times within this backward. Its gradient is reduced once more,
// at the end.
void GradientIntake::collect_late(ReducedParameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  const bool is_late = gradient.defined() && !parameter.is_sparse;
  TORCH_CHECK(!is_late || iteration_.has_summary(), "DistributedDataParallel: parameter '",
              parameter.name,
              "' got more gradients than in the first backward, which static_graph excludes");
  parameter.is_late = parameter.is_late || is_late;
  if (gradient.defined()) parameter.set_aside();
}

void GradientIntake::collect_rest() {
  for (ReducedParameter& parameter : context_.parameters) {
    if (!parameter.is_assigned) continue;
    GradientBucket& bucket = bucket_of(parameter);
    if (bucket.is_filled(parameter.place)) continue;
    // An average that another model has written in this backward is no gradient of this model.
    if (parameter.is_written_by_another(context_.reducer)) {
      bucket.put_zero(parameter.place);
    } else {
      put(parameter);
    }
  }
}

// Whatever gradients this rank still has belong to no data of this iteration. They are dropped, so
// that a step cannot use one that the other ranks no longer have. An average that another model has
// written in this round stays the parameter's gradient, if this model has none.
void GradientIntake::collect_zeros() {
  for (ReducedParameter& parameter : context_.parameters) {
    parameter.is_used = false;
    parameter.kept.reset();
    at::Tensor& gradient = parameter.tensor.mutable_grad();
    if (parameter.is_written_by_another(context_.reducer)) {
      if (!parameter.is_assigned) continue;  // the other model drops it
      parameter.kept = gradient;
    }
    gradient.reset();
    if (parameter.is_assigned) bucket_of(parameter).put_zero(parameter.place);
  }
}

}  // namespace lockstep
