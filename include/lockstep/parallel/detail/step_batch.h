// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/detail/visit_tensors.h>
#include <lockstep/parallel/detail/wrapped_module.h>

#include <concepts>
#include <tuple>
#include <type_traits>
#include <vector>

namespace lockstep::detail {

/// `torch::data::Example`, which says its parts and not its tensors.
template <typename Batch>
concept HasDataAndTarget = requires(const Batch& batch) {
  batch.data;
  batch.target;
};
template <typename Batch>
concept IsPair = requires {
  requires std::tuple_size<Batch>::value == 2;
};

/// `for_each_tensor`, also in a batch of `torch::data::Example`'s kind.
template <typename Batch, typename F>
void for_each_batch_tensor(Batch& batch, const F& f) {
  if constexpr (HasDataAndTarget<std::remove_const_t<Batch>>) {
    for_each_tensor(batch.data, f);
    for_each_tensor(batch.target, f);
  } else {
    for_each_tensor(batch, f);
  }
}

template <typename Batch>
[[nodiscard]] std::vector<at::Tensor> batch_tensors(const Batch& batch) {
  std::vector<at::Tensor> tensors;
  for_each_batch_tensor(batch, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

template <typename F, typename Model, typename Batch>
concept TakesModelAndBatch = std::is_invocable_r_v<at::Tensor, F&, Model&, const Batch&>;
/// A function of a tensor takes the model's output.
template <typename F, typename Batch>
concept TakesBatch = !TensorLike<Batch> && std::is_invocable_r_v<at::Tensor, F&, const Batch&>;

/// The loss of a batch, by a function of (model, batch), (batch), (output, target) or (output).
/// Does not compile where the function takes none of these.
template <typename F, typename Model, typename Batch>
[[nodiscard]] at::Tensor loss_of(F& f, Model& model,
                                 const Batch& batch) requires(TakesModelAndBatch<F, Model, Batch>) {
  return f(model, batch);
}
template <typename F, typename Model, typename Batch>
[[nodiscard]] at::Tensor loss_of(F& f, Model& /*model*/, const Batch& batch) requires(
    !TakesModelAndBatch<F, Model, Batch> && TakesBatch<F, Batch>) {
  return f(batch);
}
template <typename F, typename Model, typename Batch>
[[nodiscard]] at::Tensor loss_of(F& f, Model& model, const Batch& batch) requires(
    !TakesModelAndBatch<F, Model, Batch> && !TakesBatch<F, Batch> && HasDataAndTarget<Batch>) {
  return f(forward_of(model).forward(batch.data), batch.target);
}
template <typename F, typename Model, typename Batch>
[[nodiscard]] at::Tensor loss_of(F& f, Model& model, const Batch& batch) requires(
    !TakesModelAndBatch<F, Model, Batch> && !TakesBatch<F, Batch> && IsPair<Batch>) {
  return f(forward_of(model).forward(std::get<0>(batch)), std::get<1>(batch));
}
template <typename F, typename Model, typename Batch>
[[nodiscard]] at::Tensor loss_of(F& f, Model& model, const Batch& batch) requires(
    !TakesModelAndBatch<F, Model, Batch> && TensorLike<Batch>) {
  return f(forward_of(model).forward(batch));
}

template <typename F, typename Model, typename Batch>
concept ComputesLoss = requires(F& f, Model& model, const Batch& batch) {
  { loss_of(f, model, batch) } -> std::same_as<at::Tensor>;
};

}  // namespace lockstep::detail
