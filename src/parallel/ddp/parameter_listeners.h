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
/// Each gradient that autograd adds to the parameter goes to one of them: to the one whose backward
/// this is. The averages of what each got are added up, so that it makes no difference to which one
/// a gradient of all goes; but a reducer that has nothing to do with a backward starts none.
/// Lives in a hook on the parameter's gradient accumulator, where the next reducer finds it.
/// Thread-safety: as autograd calls the hook, and the program makes and destroys models: one thread
/// at a time.
class ParameterListeners {
 public:
  /// Those that listen to this node, for another one to join them.
  [[nodiscard]] static std::shared_ptr<ParameterListeners> of(torch::autograd::Node& node);

  /// `index`: of the parameter, for that reducer.
  void add(const std::shared_ptr<GradientListener>& reducer, std::size_t index);
  /// Takes the hook away with the last one.
  void remove(const std::shared_ptr<GradientListener>& reducer, torch::autograd::Node& node);
  [[nodiscard]] bool are_several() const noexcept { return listeners_.size() > 1; }

  /// The accumulator has added `incoming` to the gradient.
  void on_gradient(const at::Tensor& incoming);
  /// This reducer has made an average the parameter's gradient. `backward`: lives as long as the
  /// backward in which it did.
  void note_given(const GradientListener& by, const std::weak_ptr<bool>& backward);
  /// Whether another one did so in a backward that is still under way.
  [[nodiscard]] bool is_given_by_another(const GradientListener& than) const;

 private:
  struct Listener {
    std::weak_ptr<GradientListener> reducer;
    std::size_t index = 0;
  };
  struct Given {
    const GradientListener* by = nullptr;
    std::weak_ptr<bool> backward;
  };

  std::vector<Listener> listeners_;  // in the order in which they came: the same on all ranks
  std::vector<Given> given_;
};

}  // namespace lockstep
