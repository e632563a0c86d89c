// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/decay_groups.h>
#include <lockstep/optim/momentum_options.h>
#include <lockstep/optim/optimizer.h>
#include <torch/arg.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace lockstep::optim {

/// What `LAMB` is told. The names and defaults are those of the `Lamb` that timm has.
struct LOCKSTEP_API LAMBOptions : public torch::optim::OptimizerCloneableOptions<LAMBOptions>,
                                  public MomentumOptions {
  /// Of the gradient, and of its square.
  using Betas = std::tuple<double, double>;

  /// `lr`: the learning rate.
  explicit LAMBOptions(double lr = 1e-3) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How slowly the averages of the gradient and of its square forget.
  TORCH_ARG(Betas, betas) = Betas(0.9, 0.999);
  /// What is added to the denominator.
  TORCH_ARG(double, eps) = 1e-6;
  /// How much of the parameter is added to its update.
  TORCH_ARG(double, weight_decay) = 1e-2;
  /// Whether the averages are corrected for their start at zero.
  TORCH_ARG(bool, bias_correction) = true;
  /// Whether the average of the gradient is one; otherwise it is a sum that forgets.
  TORCH_ARG(bool, grad_averaging) = true;
  /// The norm of all gradients of all groups is at most this; none: no clipping.
  TORCH_ARG(std::optional<double>, max_grad_norm) = 1.0;
  /// Whether the update is never scaled up.
  TORCH_ARG(bool, trust_clip) = false;
  /// Whether updates are scaled in groups without weight decay too.
  TORCH_ARG(bool, always_adapt) = false;

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

/// LAMB: Adam's update of each parameter, scaled to the parameter's own norm, for large batches.
/// Before that, all gradients together are clipped to `max_grad_norm`.
///
/// Thread-safety: one thread at a time.
/// Source: You et al., Large Batch Optimization for Deep Learning, arXiv:1904.00962.
class LOCKSTEP_API LAMB : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, and for a parameter in two
  /// groups.
  explicit LAMB(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                LAMBOptions defaults = LAMBOptions());
  /// One group of parameters.
  explicit LAMB(std::vector<at::Tensor> parameters, LAMBOptions defaults = LAMBOptions())
      : LAMB({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}
  /// Parameters with and without weight decay: `no_decay_groups`.
  explicit LAMB(const DecayGroups& groups, LAMBOptions defaults = LAMBOptions())
      : LAMB(groups.with(defaults), defaults) {}

  /// As `NamedOptimizer` says.
  void visit_options(torch::optim::OptimizerOptions& options,
                     OptionVisitor& visitor) const override;

 protected:
  /// As `Optimizer` says.
  void check(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  [[nodiscard]] StateForm state_form(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  void begin(std::vector<ParameterList>& lists) override;
  /// As `Optimizer` says.
  void update(const torch::optim::OptimizerOptions& options, ParameterList& list) override;

 private:
  at::Tensor gradient_norm_;  // of this step, of all groups; undefined where no group clips
};

}  // namespace lockstep::optim
