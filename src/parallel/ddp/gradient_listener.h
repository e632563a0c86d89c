// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>

namespace lockstep {

/// A reducer as the hook on a gradient accumulator sees it. `ParameterListeners` calls it.
///
/// Thread-safety: any thread of autograd's.
class GradientListener {
 public:
  /// Why a gradient may be this model's rather than that of another model which has the parameter
  /// too. From the weakest reason to the strongest: this model is as good as any, it had a forward
  /// whose outputs nobody can watch, this backward has reached an output of it. For each reason, a
  /// model that averages has a stronger claim than one that accumulates.
  struct Claim {
    enum class Reason { Paused, Idle, PausedHidden, Hidden, PausedReached, Reached };
    Reason reason = Reason::Idle;
    std::chrono::steady_clock::time_point since;  // for `Reached`: autograd allocates in the first
    [[nodiscard]] bool is_weaker_than(const Claim& other) const {
      return reason != other.reason ? reason < other.reason : since > other.since;
    }
  };

  virtual ~GradientListener() = default;
  [[nodiscard]] virtual Claim claim() = 0;
  /// `incoming`: what autograd made the gradient of.
  virtual void on_gradient(std::size_t index, const at::Tensor& incoming) = 0;
  /// Another model, which shares the parameter, has collected its gradient.
  virtual void on_gradient_of_another(std::size_t index) = 0;
};

}  // namespace lockstep
