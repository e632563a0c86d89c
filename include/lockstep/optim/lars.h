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

/// What `LARS` is told. The names and defaults are those of the `Lars` that timm has.
struct LOCKSTEP_API LARSOptions : public torch::optim::OptimizerCloneableOptions<LARSOptions>,
                                  public MomentumOptions {
  /// `lr`: the learning rate.
  explicit LARSOptions(double lr = 1.0) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How much of the last update goes into the next.
  TORCH_ARG(double, momentum) = 0;
  /// How much of the gradient momentum leaves out.
  TORCH_ARG(double, dampening) = 0;
  /// How much of the parameter is added to its gradient.
  TORCH_ARG(double, weight_decay) = 0;
  /// Whether momentum is Nesterov's.
  TORCH_ARG(bool, nesterov) = false;
  /// The norm of a gradient becomes this multiple of its parameter's.
  TORCH_ARG(double, trust_coeff) = 1e-3;
  /// What is added to the denominator.
  TORCH_ARG(double, eps) = 1e-8;
  /// Whether the scale is at most such that the rate is `lr`, as LARC has it.
  TORCH_ARG(bool, trust_clip) = false;

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

/// LARS: SGD whose gradients are scaled to the norm of their parameter, for large batches.
/// Parameters of one dimension are updated as by SGD.
///
/// Thread-safety: one thread at a time.
/// Source: You et al., Large Batch Training of Convolutional Networks, arXiv:1708.03888.
class LOCKSTEP_API LARS : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit LARS(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                LARSOptions defaults = LARSOptions());
  /// One group of parameters.
  explicit LARS(std::vector<at::Tensor> parameters, LARSOptions defaults = LARSOptions())
      : LARS({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit LARS(const DecayGroups& groups, LARSOptions defaults = LARSOptions())
      : LARS(groups.with(defaults), defaults) {}

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
