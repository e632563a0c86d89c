// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>

namespace lockstep {

/// A reducer as the hook on a gradient accumulator sees it, which `ParameterListeners` calls.
///
/// Thread-safety: any thread of autograd's.
class GradientListener {
 public:
  /// Why a gradient may be this model's rather than another's that has the parameter too. From the
  /// weakest reason to the strongest: it is as good as any, it had a forward whose outputs nobody
  /// can watch, this backward has reached an output; each time one that averages goes before one
  /// that accumulates.
  struct Claim {
    enum class Reason { Paused, Idle, PausedHidden, Hidden, PausedReached, Reached };
    Reason reason = Reason::Idle;
    std::chrono::steady_clock::time_point since;  // of `Reached`: the first one's memory is lent
    [[nodiscard]] bool is_weaker_than(const Claim& other) const {
      return reason != other.reason ? reason < other.reason : since > other.since;
    }
  };

  virtual ~GradientListener() = default;
  [[nodiscard]] virtual Claim claim() = 0;
  /// `incoming`: what autograd made the gradient of.
  virtual void on_gradient(std::size_t index, const at::Tensor& incoming) = 0;
  /// The same of a gradient that another model that shares the parameter has taken.
  virtual void on_gradient_of_another(std::size_t index) = 0;
};

}  // namespace lockstep
