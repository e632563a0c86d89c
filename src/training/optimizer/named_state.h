// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/optimizer_state.h>

#include <functional>
#include <map>
#include <string>

namespace lockstep::training {

/// The name of each parameter, by the address that an optimizer knows it by.
using ParameterNames = std::map<const void*, std::string>;

[[nodiscard]] ParameterNames parameter_names(const torch::nn::Module& module);

/// As the public functions of these names. What the second one returns loads the state, and throws
/// nothing.
[[nodiscard]] OptimizerState named_state_of(const torch::optim::Optimizer& optimizer,
                                            const ParameterNames& names);
[[nodiscard]] std::function<void()> prepare_state(torch::optim::Optimizer& optimizer,
                                                  const ParameterNames& names,
                                                  const OptimizerState& state);

}  // namespace lockstep::training
