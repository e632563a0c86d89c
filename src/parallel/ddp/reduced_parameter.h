// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <string>

#include "parallel/ddp/gradient_listener.h"
#include "parallel/ddp/parameter_listeners.h"

namespace lockstep {

/// What a reducer knows of one parameter, and of its gradient in the backward under way.
///
/// A parameter is *planned* while it is of the set that needs gradients, and so in a bucket. A
/// gradient of any other one (it waited for its average when the parameter was frozen, or the
/// parameter was thawed since the last forward) is reduced by itself, as late ones.
/// Thread-safety: guarded by the reducer's lock.
struct ReducedParameter {
  std::string name;
  at::Tensor tensor;
  at::ScalarType dtype = at::kFloat;  // in which its gradient travels
  bool is_planned = false;
  std::shared_ptr<ParameterListeners> listeners;
  std::size_t bucket = 0;  // this and the place: if it is planned
  std::size_t place = 0;
  int expected = 1;  // gradients in a backward; how many the one before had
  // In this backward:
  int count = 0;
  bool is_sparse = false;
  bool is_late = false;    // has a gradient that its bucket did not take
  bool is_shared = false;  // another model that has it took one
  at::Tensor aside;        // what its bucket cannot take: late gradients, sparse ones
  at::Tensor kept;         // its gradient if no rank used it
  at::Tensor late;         // the average of those that no bucket took, where it is not planned
  // Since the last average:
  bool is_used = false;
  // On any rank, in the last cycle with a summary:
  bool was_used = true;
  bool was_sparse = false;
  bool was_dense = true;

  /// Whether its gradient is an average that another model made in a backward still under way.
  [[nodiscard]] bool is_given_by_another(const GradientListener& than) const;
  /// Moves its gradient to `aside`, to what is there.
  void set_aside();
  /// Ready for the next backward.
  void reset() noexcept;
};

}  // namespace lockstep
