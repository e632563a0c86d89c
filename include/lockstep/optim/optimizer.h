// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/optim/named_optimizer.h>
#include <lockstep/optim/parameter_state.h>
#include <torch/optim/optimizer.h>

#include <memory>
#include <string>
#include <vector>

namespace lockstep::optim {

struct ParameterList;
class UpdatePlan;

/// The base of Lockstep's optimizers. A step gives each operator of LibTorch one list of tensors
/// for each group, device and dtype. The lists are prepared in the first step, and again when
/// something has changed: groups, parameters, which of them have a gradient, dtypes, or the state.
///
/// A parameter without a gradient is passed over, and has no state until its first gradient. A
/// parameter that is twice in one group is updated once.
///
/// float16 and bfloat16 parameters are computed in float32: their state and a copy of the parameter
/// (`master`) are float32, and each step rounds the copy into the parameter. If the program writes
/// to such a parameter between two steps, the copy follows; a write through `Tensor::data()` is not
/// noticed. float64 parameters have float64 state.
///
/// Shapes: parameters of any strides; a gradient of other strides than its parameter is copied.
/// Thread-safety: one thread at a time.
/// Owns: the state, and the lists.
class LOCKSTEP_API Optimizer : public torch::optim::Optimizer, public NamedOptimizer {
 public:
  ~Optimizer() override;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;
  /// The optimizer that was moved from may only be destroyed.
  Optimizer(Optimizer&& other);
  /// The same.
  Optimizer& operator=(Optimizer&& other);

  /// Updates all parameters that have a gradient. `closure`: computes the loss and the gradients
  /// first; its result is returned.
  /// Throws: `c10::Error` for sparse gradients, complex parameters, shapes and devices that do not
  /// fit, options of another type, and a parameter in two groups.
  torch::Tensor step(LossClosure closure = nullptr) override;

  /// A tensor of a parameter's state, such as "exp_avg"; undefined where there is none. "master" is
  /// the copy of a parameter of a shorter type.
  /// Throws: `c10::Error` for a name that this optimizer does not have.
  [[nodiscard]] at::Tensor state_tensor(const at::Tensor& parameter, const std::string& name) const;

  /// `torch::save` is refused; `training::save_optimizer` and `training::TrainingState` save it.
  /// Throws: `c10::Error`.
  void save(torch::serialize::OutputArchive& archive) const override;
  /// The same for `torch::load`.
  void load(torch::serialize::InputArchive& archive) override;

  /// As `NamedOptimizer` says.
  [[nodiscard]] std::unique_ptr<torch::optim::OptimizerParamState> new_state() const override;
  /// As `NamedOptimizer` says.
  void visit_state(torch::optim::OptimizerParamState& state, StateVisitor& visitor) const override;

 protected:
  /// What derived classes call; they call `check_groups` then.
  Optimizer(const std::vector<torch::optim::OptimizerParamGroup>& groups,
            std::unique_ptr<torch::optim::OptimizerOptions> defaults);
  /// Checks the options of all groups, and that all parameters are of a type that can be updated.
  void check_groups() const;

  /// Throws for options out of range or of another type.
  virtual void check(const torch::optim::OptimizerOptions& options) const = 0;
  /// Throws for a parameter that this rule cannot update.
  virtual void check_parameter(const at::Tensor& parameter) const;
  /// What a group with these options needs.
  [[nodiscard]] virtual StateForm state_form(
      const torch::optim::OptimizerOptions& options) const = 0;
  /// Sees all lists of a step before any is updated.
  virtual void begin(std::vector<ParameterList>& lists);
  /// Makes one step with the parameters of a list, which are all of one group.
  virtual void update(const torch::optim::OptimizerOptions& options, ParameterList& list) = 0;

 private:
  std::unique_ptr<UpdatePlan> plan_;
};

}  // namespace lockstep::optim
