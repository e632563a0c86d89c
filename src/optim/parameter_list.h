// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/optim/parameter_state.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::optim {

/// What one call of an operator updates: parameters of one group, device and dtype.
struct ParameterList {
  std::size_t group = 0;
  at::Device device = at::kCPU;
  at::ScalarType parameter_type = at::kFloat;
  bool is_copied = false;      ///< `parameters` are copies of `originals`
  bool is_first_step = false;  ///< the first of `tensors` is to be filled by the gradient
  /// What is updated. Their memory is dense; gradients and `tensors` have their strides and dtype.
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> originals;
  std::vector<at::Tensor> gradients;  ///< of this step; undefined between steps
  std::array<std::vector<at::Tensor>, kStateTensors> tensors;  ///< as in `ParameterState`
  std::vector<std::int64_t> steps;       ///< with this step; empty where none are counted
  at::Tensor step_numbers;               ///< the same on the device, as float32
  std::vector<at::Tensor> step_tensors;  ///< views of its elements
};

}  // namespace lockstep::optim
