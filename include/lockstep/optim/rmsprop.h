// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/decay_groups.h>
#include <lockstep/optim/momentum_options.h>
#include <lockstep/optim/optimizer.h>
#include <torch/arg.h>

#include <utility>
#include <vector>

namespace lockstep::optim {

/// What `RMSprop` is told: the options of `torch.optim.RMSprop`, with its defaults.
struct LOCKSTEP_API RMSpropOptions : public torch::optim::OptimizerCloneableOptions<RMSpropOptions>,
                                     public MomentumOptions {
  /// `lr`: the learning rate.
  explicit RMSpropOptions(double lr = 1e-2) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How slowly the average of the gradient's square forgets.
  TORCH_ARG(double, alpha) = 0.99;
  /// What is added to the denominator.
  TORCH_ARG(double, eps) = 1e-8;
  /// How much of the parameter is added to its gradient.
  TORCH_ARG(double, weight_decay) = 0;
  /// How much of the last update goes into the next.
  TORCH_ARG(double, momentum) = 0;
  /// Whether the gradient's variance takes the place of the average of its square.
  TORCH_ARG(bool, centered) = false;
  /// Whether the steps go up the gradient instead of down.
  TORCH_ARG(bool, maximize) = false;

 public:
  /// The learning rate, as schedules read it.
  [[nodiscard]] double get_lr() const override { return lr(); }
  /// Sets the learning rate, as schedules do.
  void set_lr(double lr) override { lr_ = lr; }
  /// As `MomentumOptions` says.
  [[nodiscard]] bool is_beta1() const override { return false; }
  /// As `MomentumOptions` says.
  [[nodiscard]] double get_momentum() const override { return momentum(); }
  /// As `MomentumOptions` says.
  void set_momentum(double momentum) override { momentum_ = momentum; }
};

/// RMSprop: the bits of `torch.optim.RMSprop`.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API RMSprop : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit RMSprop(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                   RMSpropOptions defaults = RMSpropOptions());
  /// One group of parameters.
  explicit RMSprop(std::vector<at::Tensor> parameters, RMSpropOptions defaults = RMSpropOptions())
      : RMSprop({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit RMSprop(const DecayGroups& groups, RMSpropOptions defaults = RMSpropOptions())
      : RMSprop(groups.with(defaults), defaults) {}

  /// As `NamedOptimizer` says.
  void visit_options(torch::optim::OptimizerOptions& options,
                     OptionVisitor& visitor) const override;

 protected:
  /// As `Optimizer` says.
  void check(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  [[nodiscard]] StateForm state_form(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  void update(const torch::optim::OptimizerOptions& options, ParameterList& list) override;
};

}  // namespace lockstep::optim
