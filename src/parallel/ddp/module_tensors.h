// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "parallel/ddp/module_state.h"

namespace lockstep {

/// A module's parameters, except for those that the program wants ignored by their names.
[[nodiscard]] NamedTensors parameters_of(const torch::nn::Module& module,
                                         const std::vector<std::string>& ignored);
/// Its buffers, except for ignored ones.
[[nodiscard]] NamedTensors buffers_of(const torch::nn::Module& module,
                                      const std::vector<std::string>& ignored);
/// Its parameters, then its buffers.
[[nodiscard]] NamedTensors state_of(const torch::nn::Module& module,
                                    const std::vector<std::string>& ignored);

/// Each parameter with elements once: one that two submodules share has one gradient.
[[nodiscard]] NamedTensors distinct(NamedTensors parameters);
/// Each parameter that needs a gradient, once.
[[nodiscard]] NamedTensors with_gradient(NamedTensors parameters);
/// The tensors that are not among `known`.
[[nodiscard]] NamedTensors without(const std::vector<at::Tensor>& known,
                                   const NamedTensors& tensors);

}  // namespace lockstep
