// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/ordered_dict.h>

#include <string>
#include <vector>

#include "parallel/tensor_form.h"

namespace lockstep {

/// A module's parameters as they were at one time: which tensors, of what form, and whether they
/// needed gradients. Cheap to compare with those of now, which happens in every forward.
class ParameterRecord {
 public:
  using Parameters = torch::OrderedDict<std::string, at::Tensor>;

  ParameterRecord() = default;
  explicit ParameterRecord(const Parameters& parameters);

  [[nodiscard]] bool is_of(const Parameters& parameters) const;

 private:
  struct Entry {
    at::Tensor tensor;  // held, so that its address stays its own
    bool needs_gradient;
    TensorForm form;
  };

  std::vector<Entry> entries_;
};

}  // namespace lockstep
