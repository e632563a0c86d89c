// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/optimizer.h>

#include <filesystem>
#include <map>
#include <string>

/// @file
/// The state of an optimizer by name, as Python's `state_dict` has it, so that either can go on
/// where the other has stopped. LibTorch's `SGD`, `Adam`, `AdamW`, `RMSprop`, `Adagrad` and
/// `LBFGS`, those of `lockstep::optim`, and others that are an `optim::NamedOptimizer`.
///
/// Blocks: saving until the file is on the disk, loading while it reads.
/// Thread-safety: any thread, while no other uses the optimizer or the module.

namespace lockstep::training {

/// What an optimizer knows beside its parameters.
struct LOCKSTEP_API OptimizerState {
  /// `state.PARAMETER.KEY`, with the names of the module and the keys of Python's optimizer:
  /// `state.fc.weight.exp_avg`. Numbers are tensors without dimensions, as `step` is in Python.
  std::map<std::string, at::Tensor> tensors;
  /// The options of each group and the names of its parameters, as JSON: an array of objects with
  /// the keys of Python's `param_groups`. Fractions have as many digits as bring back each bit.
  std::string param_groups;
};

/// The tensors share memory with the optimizer, but for the numbers.
/// `module`: names the parameters; each of the optimizer must be one of its.
/// Throws: `c10::Error` for an optimizer of another kind, or a parameter without a name.
[[nodiscard]] LOCKSTEP_API OptimizerState state_of(const torch::optim::Optimizer& optimizer,
                                                   const torch::nn::Module& module);

/// Gives the optimizer a state. Its groups must have the parameters of those that were saved; what
/// the state says of each parameter replaces what the optimizer knew.
/// Throws: `c10::Error` for a state of other parameters, of another kind of optimizer, or of other
/// shapes; then the optimizer is as it was.
LOCKSTEP_API void load_state(torch::optim::Optimizer& optimizer, const torch::nn::Module& module,
                             const OptimizerState& state);

/// Writes `state_of(optimizer, module)` as a safetensors file, with `param_groups` in its metadata.
/// `tools/optimizer_state.py` gives it to Python's optimizer, and writes such files.
/// Throws: as `state_of` and `save_safetensors`.
LOCKSTEP_API void save_optimizer(const torch::optim::Optimizer& optimizer,
                                 const torch::nn::Module& module,
                                 const std::filesystem::path& path);

/// Throws: as `load_state` and `load_safetensors`.
LOCKSTEP_API void load_optimizer(torch::optim::Optimizer& optimizer,
                                 const torch::nn::Module& module,
                                 const std::filesystem::path& path);

/// For modules of `TORCH_MODULE`.
template <class Contained>
[[nodiscard]] OptimizerState state_of(const torch::optim::Optimizer& optimizer,
                                      const torch::nn::ModuleHolder<Contained>& module) {
  return state_of(optimizer, *module);
}
/// The same.
template <class Contained>
void load_state(torch::optim::Optimizer& optimizer,
                const torch::nn::ModuleHolder<Contained>& module, const OptimizerState& state) {
  load_state(optimizer, *module, state);
}
/// The same.
template <class Contained>
void save_optimizer(const torch::optim::Optimizer& optimizer,
                    const torch::nn::ModuleHolder<Contained>& module,
                    const std::filesystem::path& path) {
  save_optimizer(optimizer, *module, path);
}
/// The same.
template <class Contained>
void load_optimizer(torch::optim::Optimizer& optimizer,
                    const torch::nn::ModuleHolder<Contained>& module,
                    const std::filesystem::path& path) {
  load_optimizer(optimizer, *module, path);
}

}  // namespace lockstep::training
