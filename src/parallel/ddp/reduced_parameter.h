// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/ddp/gradient_listener.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"

namespace lockstep {

/// Whether the parameter has a gradient, and not one from before `set_data` gave the parameter
/// another shape: there is no average of such a gradient.
[[nodiscard]] bool has_gradient_of_its_shape(const at::Tensor& parameter);

/// What a reducer knows of one parameter, and of its gradient in the backward under way.
///
/// A parameter is *assigned*, to a bucket, while it belongs to the set of parameters that need
/// gradients. A parameter outside of that set may have a gradient too: the gradient waited for its
/// average when the parameter was frozen, or the parameter was thawed since the last forward. Such
/// a gradient is reduced by itself, as late ones are.
/// Thread-safety: guarded by the reducer's lock.
struct ReducedParameter {
  std::string name;
  at::Tensor tensor;
  at::ScalarType dtype = at::kFloat;  // in which its gradient travels
  bool is_assigned = false;
  std::shared_ptr<ParameterListeners> listeners;
  std::size_t bucket = 0;  // bucket and place: if it is assigned
  std::size_t place = 0;
  int expected = 1;  // gradients in a backward; how many the one before had
  // In this backward:
  int count = 0;
  bool is_sparse = false;
  bool is_late = false;    // has a gradient that its bucket did not take
  bool is_shared = false;  // another model that has the parameter collected a gradient
  at::Tensor aside;        // what its bucket cannot take: late gradients, sparse ones
  at::Tensor kept;         // its gradient if no rank used the parameter
  at::Tensor late;         // the average of late gradients, where it is not assigned
  // Since the last average:
  bool is_used = false;
  // On any rank, in the last iteration with a usage summary:
  bool was_used = true;
  bool was_sparse = false;
  bool was_dense = true;

  /// Throws: `c10::Error` naming the parameter, for a gradient that cannot be averaged. `incoming`:
  /// what autograd has added to the gradient. `is_paused`: backwards average nothing at present.
  void check_gradient(const at::Tensor& incoming, bool is_paused) const;
  /// Whether its gradient is an average that another model wrote in a backward still under way.
  [[nodiscard]] bool is_written_by_another(const GradientListener& than) const;
  /// Whether its gradient waits for the average.
  [[nodiscard]] bool is_waiting() const { return is_used && tensor.grad().defined(); }
  /// Moves its gradient to `aside`, or adds the gradient to what is there.
  void set_aside();
  /// Forgets this backward before the next one.
  void reset() noexcept;
};

/// The parameters of a new reducer. `shapes`: of their gradients.
[[nodiscard]] std::vector<ReducedParameter> make_reduced_parameters(
    const NamedTensors& parameters, const std::vector<GradientShape>& shapes);

/// The parameters whose gradients wait for their average.
[[nodiscard]] std::vector<at::Tensor> waiting_in(const std::vector<ReducedParameter>& parameters);
/// Takes over from another reducer that the gradients of `waiting` wait for their average.
void set_waiting(std::vector<ReducedParameter>& parameters, const std::vector<at::Tensor>& waiting);

}  // namespace lockstep
