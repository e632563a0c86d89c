// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/optimizer.h>

#include <memory>
#include <vector>

/// @file
/// Groups for weight decay, as recipes have it: matrices and kernels decay, biases and the scales
/// of normalisation do not.
///
/// Thread-safety: any thread, while no other changes the module.

namespace lockstep::optim {

/// The parameters of a module in two groups. Each of Lockstep's optimizers but `Muon`, which
/// takes matrices only, takes it instead of a list of parameters.
struct LOCKSTEP_API DecayGroups {
  /// No groups. Not an aggregate, so that a list in braces still is a list of parameters.
  DecayGroups() = default;

  std::vector<at::Tensor> decayed;      ///< parameters of two dimensions or more
  std::vector<at::Tensor> not_decayed;  ///< the others
  double weight_decay = 0;              ///< of the first

  /// Groups with these options but for the weight decay, for any optimizer. A group without
  /// parameters is left out.
  template <class Options>
  [[nodiscard]] std::vector<torch::optim::OptimizerParamGroup> with(const Options& options) const {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    const auto add = [&](const std::vector<at::Tensor>& parameters, double decay) {
      if (parameters.empty()) return;
      auto own = std::make_unique<Options>(options);
      own->weight_decay(decay);
      groups.emplace_back(parameters, std::move(own));
    };
    add(decayed, weight_decay);
    add(not_decayed, 0);
    return groups;
  }
};

/// Divides the parameters of a module; one that several parts of it share is listed once. Frozen
/// parameters are among them, since they may be thawed.
/// Throws: `c10::Error` for a negative weight decay.
[[nodiscard]] LOCKSTEP_API DecayGroups no_decay_groups(const torch::nn::Module& module,
                                                       double weight_decay);
/// For modules of `TORCH_MODULE`.
template <class Contained>
[[nodiscard]] DecayGroups no_decay_groups(const torch::nn::ModuleHolder<Contained>& module,
                                          double weight_decay) {
  return no_decay_groups(*module, weight_decay);
}

}  // namespace lockstep::optim
