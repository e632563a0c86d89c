// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/decay_groups.h>
#include <lockstep/optim/momentum_options.h>
#include <lockstep/optim/optimizer.h>
#include <torch/arg.h>

#include <tuple>
#include <utility>
#include <vector>

namespace lockstep::optim {

/// What `Adam` is told: the options of `torch.optim.Adam`, with its defaults.
struct LOCKSTEP_API AdamOptions : public torch::optim::OptimizerCloneableOptions<AdamOptions>,
                                  public MomentumOptions {
  /// Of the gradient, and of its square.
  using Betas = std::tuple<double, double>;

  /// `lr`: the learning rate.
  explicit AdamOptions(double lr = 1e-3) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How slowly the averages of the gradient and of its square forget.
  TORCH_ARG(Betas, betas) = Betas(0.9, 0.999);
  /// What is added to the denominator.
  TORCH_ARG(double, eps) = 1e-8;
  /// How much of the parameter is added to its gradient.
  TORCH_ARG(double, weight_decay) = 0;
  /// Whether the largest average of the square so far is the one that counts.
  TORCH_ARG(bool, amsgrad) = false;
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
  [[nodiscard]] bool is_beta1() const override { return true; }
  /// As `MomentumOptions` says.
  [[nodiscard]] double get_momentum() const override { return std::get<0>(betas()); }
  /// As `MomentumOptions` says.
  void set_momentum(double momentum) override { std::get<0>(betas_) = momentum; }
};

/// Adam: the bits of `torch.optim.Adam(fused=True)`.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Adam : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit Adam(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                AdamOptions defaults = AdamOptions());
  /// One group of parameters.
  explicit Adam(std::vector<at::Tensor> parameters, AdamOptions defaults = AdamOptions())
      : Adam({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit Adam(const DecayGroups& groups, AdamOptions defaults = AdamOptions())
      : Adam(groups.with(defaults), defaults) {}

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
