// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <string>
#include <vector>

#include "parallel/ddp/module_state.h"
#include "parallel/ddp/reducer_state.h"

namespace lockstep {

/// What a model has learned from its backwards, for a checkpoint. The parameters are those of the
/// module, whether they need gradients or not, so that indices and another model can be told.
struct DdpState {
  struct Parameter {
    std::string name;
    std::string form;        ///< dtype and sizes
    bool is_hooked = false;  ///< whether the reducer knows it
    int expected = 1;        ///< gradients in a backward

    /// Whether it is the same parameter, whatever backwards have done to it.
    [[nodiscard]] bool is_alike(const Parameter& other) const {
      return name == other.name && form == other.form;
    }
  };

  std::string settings;  ///< the options that decide about buckets
  std::int64_t usual_samples = 0;
  std::vector<Parameter> parameters;
  SavedAssignments assignments;  ///< of indices in `parameters`, which are hooked

  /// A text without anything learned. `parameters`: all of the module.
  DdpState(const DistributedDataParallelOptions& options, const NamedTensors& parameters);
  DdpState() = default;

  /// Adds what a reducer knows of `hooked`. Those that are none of the module's `parameters` any
  /// more are left out.
  void add(const ReducerState& reducer, const NamedTensors& hooked, const NamedTensors& parameters);
  /// The way back, for a reducer that has at least those parameters that are hooked here.
  [[nodiscard]] ReducerState for_reducer(const NamedTensors& hooked) const;
  /// Whether a reducer of `hooked` has all parameters that are hooked here.
  [[nodiscard]] bool fits(const NamedTensors& hooked) const;
  [[nodiscard]] bool is_hooked(const std::string& name) const;

  [[nodiscard]] std::string to_text() const;
  /// Throws: `c10::Error` for a text that `to_text` has not made.
  [[nodiscard]] static DdpState from_text(const std::string& text);

  /// Whether a state belongs to a model with these parameters.
  [[nodiscard]] bool has_parameters_of(const DdpState& model) const;
  /// Throws: `c10::Error` unless the model of these options and parameters can go on with it.
  void check_for(const DistributedDataParallelOptions& options,
                 const NamedTensors& parameters) const;
};

}  // namespace lockstep
