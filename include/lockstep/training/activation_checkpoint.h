// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <lockstep/core/detail/visit_tensors.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep {

/// What `checkpoint` is told.
///
/// Thread-safety: a value.
struct CheckpointOptions {
  /// Whether the function draws the same random numbers (dropout) when it runs again. Costs a copy
  /// of the state of each default generator, some kilobytes.
  TORCH_ARG(bool, preserve_random_state) = true;
};

namespace detail {

using Tensors = std::vector<at::Tensor>;
using TensorFunction = std::function<Tensors(const Tensors&)>;
using ReplaceTensor = std::function<void(at::Tensor&)>;

/// The part of `checkpoint` that does not depend on the function's type. Calls `first` at once, and
/// `again`, which must do the same, in each backward.
[[nodiscard]] LOCKSTEP_API Tensors run_checkpoint(const TensorFunction& first, TensorFunction again,
                                                  const Tensors& inputs,
                                                  const CheckpointOptions& options);

template <typename Result>
Tensors tensors_of(Result& result) {
  Tensors tensors;
  for_each_tensor(result, [&](at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

template <typename Function, std::size_t... Indices>
auto call_with(Function& function, const Tensors& inputs,
               std::index_sequence<Indices...> /*unused*/) {
  return std::invoke(function, inputs[Indices]...);
}

}  // namespace detail

/// Runs `function(inputs...)` without keeping what its backward would need, and runs it again when
/// backward comes to it: less memory for more time.
///
///     x = lockstep::checkpoint([this](const torch::Tensor& y) { return block(y); }, x);
///
/// Parameters and other tensors that the function captures get their gradients like any others,
/// each added once, in the backward that is under way. So it works in a model wrapped by
/// `DistributedDataParallel`, with the same parameters in several checkpoints, with
/// `autograd::grad`, nested, and differentiated twice. Where gradients are off it just calls the
/// function.
///
/// The function must do the same both times: it may not change its inputs in place, and what it
/// changes elsewhere it changes twice (running statistics of batch norm). The default random
/// generators and autocast are set back for the second time. The function and what it captures
/// live until the graph goes.
///
/// Shapes: any tensors as inputs, with or without a gradient or undefined; other arguments are
/// captured. The result is a tensor, or has tensors in containers, pairs, tuples and optionals, to
/// any depth; a type of the program's own shows its tensors by `template <typename F> void
/// for_each_tensor(F f) const`. Numbers beside them stay those of the first time.
/// Thread-safety: as the function's; the default random generators belong to the process, so that
/// threads which draw from them at the same time draw other numbers.
/// Throws: what the function throws, from here or from backward; `c10::Error` for an input changed
/// in place, and from backward where the function did something else the second time.
/// Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
template <typename Function, std::convertible_to<at::Tensor>... Inputs>
auto checkpoint(const CheckpointOptions& options, Function&& function, const Inputs&... inputs) {
  using Indices = std::index_sequence_for<Inputs...>;
  const detail::Tensors tensors{at::Tensor(inputs)...};
  // One function for both times, also where it has a state of its own.
  const auto shared = std::make_shared<std::decay_t<Function>>(std::forward<Function>(function));
  using Result = decltype(detail::call_with(*shared, tensors, Indices()));
  static_assert(detail::has_visible_tensors<Result, detail::ReplaceTensor>(),
                "checkpoint: the function returns a type in which no tensors can be found; return "
                "tensors, containers, pairs, tuples or optionals of them, or a type with a "
                "for_each_tensor(F f) const that calls f with each of its tensors");
  if (!at::GradMode::is_enabled()) return detail::call_with(*shared, tensors, Indices());

  std::optional<Result> result;
  const auto outputs = detail::run_checkpoint(
      [&](const detail::Tensors& given) {
        result.emplace(detail::call_with(*shared, given, Indices()));
        return detail::tensors_of(*result);
      },
      [shared](const detail::Tensors& given) {
        Result again = detail::call_with(*shared, given, Indices());
        return detail::tensors_of(again);
      },
      tensors, options);
  auto output = outputs.begin();
  detail::for_each_tensor(*result, [&](at::Tensor& tensor) { tensor = *output++; });
  return std::move(*result);
}

/// Runs `checkpoint` with the default options.
template <typename Function, std::convertible_to<at::Tensor>... Inputs>
requires(!std::convertible_to<Function, const CheckpointOptions&>) auto checkpoint(
    Function&& function, const Inputs&... inputs) {
  return checkpoint(CheckpointOptions(), std::forward<Function>(function), inputs...);
}

}  // namespace lockstep
