// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>
#include <c10/util/DimVector.h>
#include <lockstep/optim/parameter_state.h>
#include <torch/optim/optimizer.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "optim/parameter_list.h"

namespace lockstep::optim {

/// The lists of an optimizer's steps, and what they were made of.
class UpdatePlan {
 public:
  using Groups = std::vector<torch::optim::OptimizerParamGroup>;
  using States = std::decay_t<decltype(std::declval<torch::optim::Optimizer&>().state())>;
  /// Of each group.
  using Forms = std::vector<StateForm>;
  using CheckParameter = std::function<void(const at::Tensor&)>;

  /// Puts the gradients of this step into the lists, and makes the lists anew where what they were
  /// made of has changed. Counts the step in the lists, and not in the states.
  void begin(Groups& groups, States& states, Forms forms, const CheckParameter& check);
  [[nodiscard]] std::vector<ParameterList>& lists() { return lists_; }
  /// Writes what a list has for parameters that have copies in it. Comes after its update.
  static void write_back(ParameterList& list);
  /// Puts the results into the states, and counts the step there. A step that does not
  /// come here leaves the lists to be made anew.
  void finish();
  /// Gives the gradients back, so that `zero_grad` frees them.
  void release_gradients();

 private:
  /// Where a parameter is, and how it was then.
  struct Place {
    at::Tensor parameter;
    bool has_gradient = false;
    bool is_repeated = false;  // it is in this group before
    std::size_t list = 0;
    std::size_t index = 0;
    ParameterState* state = nullptr;
    std::int64_t step = 0;
    at::DimVector sizes;
    at::DimVector strides;
    // After our last write, for copied ones: the memory is kept, so that its address is not used
    // again.
    std::int64_t version = 0;
    c10::Storage memory;
    const void* begin = nullptr;
  };

  [[nodiscard]] bool put_gradients(Groups& groups, States& states, const Forms& forms);
  [[nodiscard]] bool put_gradient(const at::Tensor& parameter, Place& place, States& states,
                                  const StateForm& form);
  [[nodiscard]] bool has_same_state(const Place& place, States& states,
                                    const StateForm& form) const;
  void make_lists(Groups& groups, States& states, const CheckParameter& check);
  void add(std::size_t group, Place& place, States& states);
  [[nodiscard]] std::size_t list_for(const ParameterList& like);
  void follow_writes(Place& place);

  std::vector<ParameterList> lists_;
  std::vector<std::vector<Place>> places_;  // of each group, in its order
  Forms forms_;
  bool is_valid_ = false;
};

}  // namespace lockstep::optim
