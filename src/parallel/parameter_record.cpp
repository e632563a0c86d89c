// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/parameter_record.h"

#include <algorithm>

namespace lockstep {

ParameterRecord::ParameterRecord(const Parameters& parameters) {
  entries_.reserve(parameters.size());
  for (const auto& item : parameters) {
    const at::Tensor& tensor = item.value();
    entries_.push_back({tensor, tensor.requires_grad(), TensorForm(tensor)});
  }
}

bool ParameterRecord::is_of(const Parameters& parameters) const {
  return std::equal(entries_.begin(), entries_.end(), parameters.begin(), parameters.end(),
                    [](const Entry& entry, const auto& item) {
                      const at::Tensor& tensor = item.value();
                      return tensor.is_same(entry.tensor) &&
                             tensor.requires_grad() == entry.needs_gradient &&
                             entry.form.is_of(tensor);
                    });
}

}  // namespace lockstep
