// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Calls whatever a program has as a stage or as a loss with the tensors of a microbatch.
// Thread-safety: as what is called.

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/core/detail/visit_tensors.h>
#include <lockstep/parallel/detail/wrapped_module.h>

#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::pipeline::detail {

using Tensors = std::vector<at::Tensor>;

template <typename Module, typename... Arguments>
    struct Takes : std::bool_constant < requires(Module& module, Arguments&&... arguments) {
  module.forward(std::forward<Arguments>(arguments)...);
} > {};
// A wrapper's forward takes everything, and refuses to compile.
template <template <typename> typename Wrapper, lockstep::detail::WrapsModule Net,
          typename... Arguments>
struct Takes<Wrapper<Net>, Arguments...>
    : std::bool_constant<lockstep::detail::ForwardTakes<Net, Arguments...>> {};
/// Whether a module's forward takes these.
template <typename Module, typename... Arguments>
constexpr bool kTakes = Takes<Module, Arguments...>::value;

/// A module's forward as a function.
template <typename Module>
struct ForwardCall {
  Module& module;

  template <typename... Arguments>
  requires kTakes<Module, Arguments...>
  decltype(auto) operator()(Arguments&&... arguments) {
    return module.forward(std::forward<Arguments>(arguments)...);
  }
};

template <std::size_t>
using OneTensor = at::Tensor;

template <typename Function, std::size_t... Indices>
constexpr bool takes_tensors(std::index_sequence<Indices...> /*unused*/) {
  return std::is_invocable_v<Function&, OneTensor<Indices>...>;
}
/// Whether it can be called with that many tensors.
template <typename Function, std::size_t Count>
concept TakesTensors = takes_tensors<Function>(std::make_index_sequence<Count>());
/// Whether it takes its tensors as one vector. Those that take anything are asked for tensors.
template <typename Function>
concept TakesVector = !TakesTensors<Function, 1> && std::is_invocable_v<Function&, const Tensors&>;

template <typename Result>
Tensors tensors_in(Result result) {
  static_assert(!std::is_void_v<Result>, "a stage of a pipeline returns its outputs");
  Tensors tensors;
  lockstep::detail::for_each_tensor(result,
                                    [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

template <typename Function, std::size_t... Indices>
Tensors call_with(Function& function, const Tensors& inputs,
                  std::index_sequence<Indices...> /*unused*/) {
  return tensors_in(function(at::Tensor(inputs[Indices])...));
}

constexpr std::size_t kMostArguments = 6;

template <std::size_t Count, typename Function>
Tensors call_with_count(Function& function, const Tensors& inputs) {
  if constexpr (Count > kMostArguments) {
    TORCH_CHECK(false, "this stage does not take ", inputs.size(),
                " tensors; it gets the outputs of the stage before, each as one argument, or all "
                "as one std::vector");
  } else {
    if constexpr (TakesTensors<Function, Count>) {
      if (inputs.size() == Count) {
        return call_with(function, inputs, std::make_index_sequence<Count>());
      }
    }
    return call_with_count<Count + 1>(function, inputs);
  }
}

/// Throws: `c10::Error` where it does not take so many.
template <typename Function>
Tensors call_stage(Function&& function, const Tensors& inputs) {
  using Plain = std::remove_reference_t<Function>;
  if constexpr (TakesVector<Plain>) {
    return tensors_in(function(inputs));
  } else {
    return call_with_count<1>(function, inputs);
  }
}

/// The loss of one microbatch from the outputs of the last stage and its targets.
using LossFunction = std::function<at::Tensor(const Tensors& outputs, const Tensors& targets)>;

inline const at::Tensor& only_one(const Tensors& tensors, const char* what) {
  TORCH_CHECK(tensors.size() == 1, "Pipeline::step: there are ", tensors.size(), " ", what,
              ", and the loss function takes one; let it take a std::vector of them");
  return tensors.front();
}

template <typename Loss>
at::Tensor call_loss(Loss& loss, const Tensors& outputs, const Tensors& targets) {
  if constexpr (std::is_invocable_v<Loss&, at::Tensor, at::Tensor>) {
    return loss(at::Tensor(only_one(outputs, "outputs of the last stage")),
                at::Tensor(only_one(targets, "targets")));
  } else if constexpr (std::is_invocable_v<Loss&, const Tensors&, at::Tensor>) {
    return loss(outputs, at::Tensor(only_one(targets, "targets")));
  } else if constexpr (std::is_invocable_v<Loss&, at::Tensor, const Tensors&>) {
    return loss(at::Tensor(only_one(outputs, "outputs of the last stage")), targets);
  } else {
    static_assert(std::is_invocable_v<Loss&, const Tensors&, const Tensors&>,
                  "Pipeline::step: the loss function takes the output of the last stage and the "
                  "target, each a tensor or a std::vector of tensors");
    return loss(outputs, targets);
  }
}

}  // namespace lockstep::pipeline::detail
