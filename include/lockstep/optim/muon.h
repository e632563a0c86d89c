// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/momentum_options.h>
#include <lockstep/optim/optimizer.h>
#include <torch/arg.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lockstep::optim {

/// What `Muon` is told: the options of `torch.optim.Muon`, with its defaults.
struct LOCKSTEP_API MuonOptions : public torch::optim::OptimizerCloneableOptions<MuonOptions>,
                                  public MomentumOptions {
  /// Of x, x^3 and x^5.
  using Coefficients = std::tuple<double, double, double>;

  /// `lr`: the learning rate.
  explicit MuonOptions(double lr = 1e-3) : lr_(lr) {}
  /// The learning rate.
  TORCH_ARG(double, lr);
  /// How much of the parameter a step takes off, in multiples of the learning rate.
  TORCH_ARG(double, weight_decay) = 0.1;
  /// How slowly the average of the gradient forgets.
  TORCH_ARG(double, momentum) = 0.95;
  /// Whether momentum is Nesterov's.
  TORCH_ARG(bool, nesterov) = true;
  /// The polynomial of the Newton-Schulz iteration.
  TORCH_ARG(Coefficients, ns_coefficients) = Coefficients(3.4445, -4.7750, 2.0315);
  /// The least norm that a matrix is divided by.
  TORCH_ARG(double, eps) = 1e-7;
  /// Iterations, fewer than 100.
  TORCH_ARG(std::int64_t, ns_steps) = 5;
  /// "original", as none: the rate is multiplied by the root of rows over columns, if it is
  /// above 1. "match_rms_adamw": by 0.2 times the root of the larger of both.
  TORCH_ARG(std::optional<std::string>, adjust_lr_fn) = std::nullopt;
  /// What the iteration computes in. float32 is faster on CPUs without bfloat16 arithmetic, and
  /// has not Python's bits. No part of a saved state.
  TORCH_ARG(at::ScalarType, ns_dtype) = at::kBFloat16;

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

/// Muon, for matrices: momentum that is made orthogonal. The bits are those of `torch.optim.Muon`.
/// Other parameters, embeddings and the last layer belong into another optimizer.
///
/// Thread-safety: one thread at a time.
/// Source: Jordan, Muon, https://kellerjordan.github.io/posts/muon/.
class LOCKSTEP_API Muon : public Optimizer {
 public:
  /// `defaults`: the options of groups that have none of their own.
  /// Throws: `c10::Error` for options out of range or of another type, for a parameter in two
  /// groups, and for one that is no matrix.
  explicit Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                MuonOptions defaults = MuonOptions());
  /// One group of parameters.
  explicit Muon(std::vector<at::Tensor> parameters, MuonOptions defaults = MuonOptions())
      : Muon({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(defaults)) {}

  /// As `NamedOptimizer` says.
  void visit_options(torch::optim::OptimizerOptions& options,
                     OptionVisitor& visitor) const override;

 protected:
  /// As `Optimizer` says.
  void check(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  void check_parameter(const at::Tensor& parameter) const override;
  /// As `Optimizer` says.
  [[nodiscard]] StateForm state_form(const torch::optim::OptimizerOptions& options) const override;
  /// As `Optimizer` says.
  void update(const torch::optim::OptimizerOptions& options, ParameterList& list) override;
};

}  // namespace lockstep::optim
