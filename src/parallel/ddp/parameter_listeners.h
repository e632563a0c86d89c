// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "parallel/ddp/gradient_listener.h"

namespace lockstep {

/// The reducers that average one parameter's gradient, where several wrapped models have it, as
/// tasks share an encoder.
///
/// Each gradient that autograd adds to the parameter goes to one reducer: the one whose backward
/// this is. The averages of what each reducer got are added up, so that it makes no difference
/// which one gets a gradient to which several models contributed; but a reducer that has nothing to
/// do with a backward starts no iteration. The listeners live in a hook on the parameter's gradient
/// accumulator, where the next reducer finds them. Thread-safety: one thread at a time. Autograd
/// calls the hook in one thread at a time, and the program makes and destroys no models meanwhile.
class ParameterListeners {
 public:
  /// The listeners of this gradient accumulator; another reducer may join them.
  [[nodiscard]] static std::shared_ptr<ParameterListeners> of(torch::autograd::Node& node);

  /// `index`: the number that this reducer gives the parameter.
  void add(const std::shared_ptr<GradientListener>& reducer, std::size_t index);
  /// Removes a reducer, and with the last one the hook.
  void remove(const std::shared_ptr<GradientListener>& reducer, torch::autograd::Node& node);
  [[nodiscard]] bool are_several() const noexcept { return listeners_.size() > 1; }

  /// The accumulator has added `incoming` to the gradient.
  void on_gradient(const at::Tensor& incoming);
  /// This reducer has written an average to the parameter's gradient. `backward`: lives as long as
  /// the backward in which it did.
  void note_written(const GradientListener& by, const std::weak_ptr<bool>& backward);
  /// Whether another reducer did so in a backward that is still under way.
  [[nodiscard]] bool is_written_by_another(const GradientListener& than) const;

 private:
  struct Listener {
    std::weak_ptr<GradientListener> reducer;
    std::size_t index = 0;
  };
  struct Written {
    const GradientListener* by = nullptr;
    std::weak_ptr<bool> backward;
  };

  std::vector<Listener> listeners_;  // in the order in which they came: the same on all ranks
  std::vector<Written> written_;
};

}  // namespace lockstep
