// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/optim/optimizer.h>

#include <memory>
#include <string>
#include <vector>

#include "training/optimizer/groups_json.h"
#include "training/optimizer/parameter_state.h"

namespace lockstep::training {

/// Reads and writes what one kind of optimizer knows.
class OptimizerKind {
 public:
  virtual ~OptimizerKind() = default;
  /// One group as JSON. `params`: the names of its parameters.
  [[nodiscard]] virtual std::string write(const torch::optim::OptimizerOptions& options,
                                          const std::vector<std::string>& params) const = 0;
  /// `options` with the values of `group`.
  [[nodiscard]] virtual std::unique_ptr<torch::optim::OptimizerOptions> read(
      const torch::optim::OptimizerOptions& options, const GroupJson& group) const = 0;
  /// The state of one parameter.
  virtual void write_state(const torch::optim::OptimizerParamState& state,
                           StateWriter& writer) const = 0;
  /// The same.
  [[nodiscard]] virtual std::unique_ptr<torch::optim::OptimizerParamState> read_state(
      StateReader& reader) const = 0;
  /// Whether a state has to name the parameters in the order that the optimizer has.
  [[nodiscard]] virtual bool needs_same_order() const { return false; }
};

/// Throws: `c10::Error` for an optimizer that is neither LibTorch's nor an `optim::NamedOptimizer`.
[[nodiscard]] std::unique_ptr<OptimizerKind> kind_of(const torch::optim::Optimizer& optimizer);

}  // namespace lockstep::training
