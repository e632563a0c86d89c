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

/// What `SGD` is told: the options of `torch.optim.SGD`, with its defaults.
struct LOCKSTEP_API SGDOptions : public torch::optim::OptimizerCloneableOptions<SGDOptions>,
                                 public MomentumOptions {
  /// `lr`: the learning rate.
  explicit SGDOptions(double lr = 1e-3) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How much of the last update goes into the next; 0: no momentum, and no state.
  TORCH_ARG(double, momentum) = 0;
  /// How much of the gradient momentum leaves out.
  TORCH_ARG(double, dampening) = 0;
  /// How much of the parameter is added to its gradient.
  TORCH_ARG(double, weight_decay) = 0;
  /// Whether momentum is Nesterov's.
  TORCH_ARG(bool, nesterov) = false;
  /// Whether the steps go up the gradient instead of down.
  TORCH_ARG(bool, maximize) = false;
  /// Whether LibTorch's fused operator makes the step. Without it, the bits are those of
  /// Python's default.
  TORCH_ARG(bool, fused) = true;

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

/// Stochastic gradient descent with momentum: the bits of `torch.optim.SGD(fused=True)`.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API SGD : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit SGD(const std::vector<torch::optim::OptimizerParamGroup>& groups,
               SGDOptions defaults = SGDOptions());
  /// One group of parameters.
  explicit SGD(std::vector<at::Tensor> parameters, SGDOptions defaults = SGDOptions())
      : SGD({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit SGD(const DecayGroups& groups, SGDOptions defaults = SGDOptions())
      : SGD(groups.with(defaults), defaults) {}

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
