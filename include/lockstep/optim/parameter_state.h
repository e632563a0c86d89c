// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/optim/optimizer.h>

#include <array>
#include <cstddef>
#include <cstdint>

/// @file
/// What Lockstep's optimizers know of a parameter.
///
/// Thread-safety: as the optimizer.

namespace lockstep::optim {

/// As many tensors as an optimizer knows of a parameter at most.
inline constexpr std::size_t kStateTensors = 3;

/// What an optimizer knows of one parameter. `Optimizer::state_tensor` finds a tensor by its name.
struct LOCKSTEP_API ParameterState
    : public torch::optim::OptimizerCloneableParamState<ParameterState> {
  /// Steps that the parameter has made.
  std::int64_t step = 0;
  /// Of the parameter's shape; undefined where the options need none.
  std::array<at::Tensor, kStateTensors> tensors;
  /// The parameter in float32, if the parameter itself is of a shorter type.
  at::Tensor master;
  /// The parameter itself: it keeps its address, which is the key of its state, as long as the
  /// state is there.
  at::Tensor owner;
};

/// Which tensors an optimizer knows of each parameter of a group.
struct LOCKSTEP_API StateForm {
  /// One of them.
  struct Entry {
    const char* name = nullptr;  ///< the key of Python's optimizer; null: there is none
    bool is_used = true;         ///< whether the options of the group need it
    bool is_required = true;     ///< whether every state of such an optimizer has it
    double initial_value = 0;    ///< of each element, before the first step
  };
  std::array<Entry, kStateTensors> tensors;  ///< in the order of `ParameterState::tensors`
  bool counts_steps = false;                 ///< whether the state has `step`
  bool starts_with_gradient = false;         ///< whether the first step fills the first tensor
};

}  // namespace lockstep::optim
