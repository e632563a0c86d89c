// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/optim/optimizer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

/// @file
/// Names for what an optimizer knows, so that `lockstep::training` can save it and give it back.
///
/// Thread-safety: as the optimizer.

namespace lockstep::optim {

/// Reads or writes the options of a group, each under its name in Python's `param_groups`.
class LOCKSTEP_API OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  /// One number.
  virtual void number(const char* name, double& value) = 0;
  /// One number, or Python's `None`.
  virtual void optional_number(const char* name, std::optional<double>& value) = 0;
  /// A tuple of numbers.
  virtual void numbers(const char* name, std::span<double> values) = 0;
  /// One whole number.
  virtual void integer(const char* name, std::int64_t& value) = 0;
  /// True or false.
  virtual void flag(const char* name, bool& value) = 0;
  /// True, false, or Python's `None`, which leaves `value` as it is.
  virtual void choice(const char* name, bool& value) = 0;
  /// A text, or Python's `None`.
  virtual void optional_text(const char* name, std::optional<std::string>& value) = 0;
  /// What Python's groups have besides, as JSON. Where the rule depends on it, another value is
  /// refused when a state is loaded.
  virtual void constant(const char* name, const char* json) = 0;
};

/// Reads or writes what an optimizer knows of one parameter, under the keys of Python's optimizer.
class LOCKSTEP_API StateVisitor {
 public:
  virtual ~StateVisitor() = default;
  /// How many steps the parameter has made.
  virtual void count(const char* key, std::int64_t& value) = 0;
  /// A tensor of the parameter's shape, or an undefined one. `is_required`: a state without it is
  /// refused.
  virtual void tensor(const char* key, at::Tensor& value, bool is_required) = 0;
};

/// An optimizer that can name its options and its state. `training::state_of`, `save_optimizer` and
/// `TrainingState` know LibTorch's optimizers and those that derive from this class as well as from
/// `torch::optim::Optimizer`.
class LOCKSTEP_API NamedOptimizer {
 public:
  virtual ~NamedOptimizer() = default;
  /// Shows each option of one group. Throws: `c10::Error` for options of another type.
  virtual void visit_options(torch::optim::OptimizerOptions& options,
                             OptionVisitor& visitor) const = 0;
  /// A state that knows nothing yet, for `visit_state` to fill.
  [[nodiscard]] virtual std::unique_ptr<torch::optim::OptimizerParamState> new_state() const = 0;
  /// Shows each field of one parameter's state. Throws: `c10::Error` for a state of another type.
  virtual void visit_state(torch::optim::OptimizerParamState& state,
                           StateVisitor& visitor) const = 0;
};

}  // namespace lockstep::optim
