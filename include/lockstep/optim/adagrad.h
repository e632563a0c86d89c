// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/decay_groups.h>
#include <lockstep/optim/optimizer.h>
#include <torch/arg.h>

#include <utility>
#include <vector>

namespace lockstep::optim {

/// What `Adagrad` is told: the options of `torch.optim.Adagrad`, with its defaults.
struct LOCKSTEP_API AdagradOptions
    : public torch::optim::OptimizerCloneableOptions<AdagradOptions> {
  /// `lr`: the learning rate.
  explicit AdagradOptions(double lr = 1e-2) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How much the learning rate shrinks with each step.
  TORCH_ARG(double, lr_decay) = 0;
  /// How much of the parameter is added to its gradient.
  TORCH_ARG(double, weight_decay) = 0;
  /// What the sum of squares begins with.
  TORCH_ARG(double, initial_accumulator_value) = 0;
  /// What is added to the denominator.
  TORCH_ARG(double, eps) = 1e-10;
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
};

/// Adagrad: the bits of `torch.optim.Adagrad(fused=True)`. The state of a parameter is made with
/// its first gradient; Python's is made at construction.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Adagrad : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                   AdagradOptions defaults = AdagradOptions());
  /// One group of parameters.
  explicit Adagrad(std::vector<at::Tensor> parameters, AdagradOptions defaults = AdagradOptions())
      : Adagrad({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit Adagrad(const DecayGroups& groups, AdagradOptions defaults = AdagradOptions())
      : Adagrad(groups.with(defaults), defaults) {}

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
