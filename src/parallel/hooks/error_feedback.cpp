// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/error_feedback.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>

#include <tuple>
#include <utility>

namespace lockstep::hooks {

void ErrorFeedback::add(const at::Tensor& parameter, const at::Tensor& values) {
  Entry& entry = entries_[parameter];
  if (!entry.error.defined() || values.numel() == 0) return;
  entry.error = entry.error.to(values.options());  // the model may have moved
  // Not the norm that is the largest absolute value: LibTorch does not vectorize it on CPUs.
  const auto [least, largest] = at::aminmax(values);
  const at::Tensor has_gradient = least.ne(0).logical_or_(largest.ne(0));
  // Factors of 0 or 1 instead of a condition: asking would make the host wait for a GPU. They have
  // the dtype of the values: LibTorch does not vectorize arithmetic of two dtypes, either.
  values.addcmul_(entry.error, has_gradient.to(values.scalar_type()));
  entry.waits = has_gradient.logical_not().to(values.scalar_type());
}

void ErrorFeedback::keep(const at::Tensor& parameter, const at::Tensor& left_out) {
  Entry& entry = entries_[parameter];
  if (entry.waits.defined()) left_out.addcmul_(entry.error, entry.waits);
  entry.waits.reset();
  entry.error = left_out.nan_to_num_(0, 0, 0);
}

at::Tensor ErrorFeedback::of(const at::Tensor& parameter) const {
  const Entry* entry = entries_.find(parameter);
  return entry == nullptr ? at::Tensor() : entry->error;
}

void ErrorFeedback::write(HookStateWriter& writer) const {
  entries_.for_each([&](const c10::TensorImpl* parameter, const Entry& entry) {
    if (entry.error.defined()) writer.add(kErrorPrefix + writer.name_of(parameter), entry.error);
  });
}

ErrorFeedback ErrorFeedback::read(HookStateReader& reader, const ParametersByName& parameters) {
  ErrorFeedback result;
  for (const auto& [name, parameter] : parameters) {
    at::Tensor error = reader.take_values(kErrorPrefix + name, parameter.sizes(), parameter);
    if (error.defined()) result.entries_[parameter].error = std::move(error);
  }
  return result;
}

}  // namespace lockstep::hooks
