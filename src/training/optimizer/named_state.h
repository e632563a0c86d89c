// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/optimizer_state.h>

#include <functional>
#include <map>
#include <string>

namespace lockstep::training {

/// The name of each parameter, by the address that an optimizer knows it by.
using ParameterNames = std::map<const void*, std::string>;

/// Whether an optimizer makes copies of the tensors that it loads, or keeps them: nobody else uses
/// them then.
enum class StateTensors { Copied, Kept };

[[nodiscard]] ParameterNames parameter_names(const torch::nn::Module& module);

/// Does what the public function `state_of` does.
[[nodiscard]] OptimizerState named_state_of(const torch::optim::Optimizer& optimizer,
                                            const ParameterNames& names);
/// Does what the public function `load_state` does. What it returns loads the state, and throws
/// nothing.
[[nodiscard]] std::function<void()> prepare_state(torch::optim::Optimizer& optimizer,
                                                  const ParameterNames& names,
                                                  const OptimizerState& state,
                                                  StateTensors tensors);

}  // namespace lockstep::training
