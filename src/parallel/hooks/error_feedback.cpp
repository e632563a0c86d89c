// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/error_feedback.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <limits>

namespace lockstep::hooks {

void ErrorFeedback::add(const at::Tensor& parameter, const at::Tensor& values) {
  Entry& entry = entries_[parameter];
  if (!entry.error.defined()) return;
  // A factor of 0 or 1 instead of a condition: asking would make the host wait for a GPU.
  const at::Tensor has_gradient =
      at::linalg_vector_norm(values, std::numeric_limits<double>::infinity()).ne(0);
  const at::Tensor error = entry.error.to(values.options());  // the model may have moved
  const at::Tensor added = error.mul(has_gradient);
  entry.waiting = error - added;
  values.add_(added);
}

void ErrorFeedback::keep(const at::Tensor& parameter, const at::Tensor& left_out) {
  Entry& entry = entries_[parameter];
  if (entry.waiting.defined()) left_out.add_(entry.waiting);
  entry.waiting.reset();
  entry.error = left_out.nan_to_num_(0, 0, 0);
}

at::Tensor ErrorFeedback::of(const at::Tensor& parameter) const {
  const Entry* entry = entries_.find(parameter);
  return entry == nullptr ? at::Tensor() : entry->error;
}

}  // namespace lockstep::hooks
