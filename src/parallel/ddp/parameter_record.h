// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <vector>

#include "parallel/ddp/tensor_form.h"

namespace lockstep {

/// A module's parameters as they were at one time: which tensors they were, of what form, and
/// whether they needed gradients. They are compared with the parameters of now before and after
/// each forward, so the walk over them makes no names.
class ParameterRecord {
 public:
  explicit ParameterRecord(const torch::nn::Module& module);

  [[nodiscard]] bool is_of(const torch::nn::Module& module) const;

 private:
  struct Entry {
    at::Tensor tensor;  // held, so that its address stays its own
    bool needs_gradient;
    TensorForm form;

    [[nodiscard]] bool is_of(const at::Tensor& now) const;
  };

  std::vector<Entry> entries_;
};

}  // namespace lockstep
