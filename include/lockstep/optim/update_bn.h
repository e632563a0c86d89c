// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>

#include <concepts>
#include <functional>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace lockstep::optim {

/// A batch norm of a kind that LibTorch does not have, for `update_bn`.
///
/// Thread-safety: as the module's.
class LOCKSTEP_API TracksBatches {
 public:
  virtual ~TracksBatches();
  /// Forgets all batches: mean 0, variance 1, no batch counted.
  virtual void forget_batches() = 0;
  /// What weight a new batch has in the running statistics; none: all batches have the same.
  [[nodiscard]] virtual std::optional<double> momentum() const = 0;
  /// Sets that weight.
  virtual void set_momentum(std::optional<double> momentum) = 0;

 protected:
  TracksBatches() = default;
  TracksBatches(const TracksBatches&) = default;
  TracksBatches& operator=(const TracksBatches&) = default;
};

/// Makes the running statistics of all batch norms in `model` anew: those of the batches that
/// `pass` gives to the model, all with the same weight. The model is in training mode meanwhile,
/// and gradients are off. Without batch norms, `pass` is not called.
///
/// Averaged weights (`AveragedModel::swap`) need it where buffers are not averaged, because their
/// activations are others than those of the weights of training.
///
/// Collective: as `pass`; a `SyncBatchNorm` communicates in each forward.
/// Thread-safety: as the model's.
/// Throws: what `pass` throws; momenta and modes are as before then, the statistics are not.
/// Source: Python's `torch.optim.swa_utils.update_bn`.
LOCKSTEP_API void update_bn(torch::nn::Module& model, const std::function<void()>& pass);

namespace detail {

/// The input in a batch: the batch itself, its `data`, or the first of a pair or tuple.
template <class Batch>
at::Tensor input_of(const Batch& batch) {
  if constexpr (std::is_convertible_v<const Batch&, at::Tensor>) {
    return batch;
  } else if constexpr (requires {
                         { batch.data } -> std::convertible_to<at::Tensor>;
                       }) {
    return batch.data;
  } else {
    return std::get<0>(batch);
  }
}

}  // namespace detail

/// The same with a pass over a loader, whose batches are tensors, have their input as `data`, or
/// are pairs or tuples that begin with it. `model`: a module holder or a pointer to a module.
/// `device`: where inputs are copied to first.
///
///     lockstep::optim::update_bn(loader, net);
///
/// Throws: what the loader and the model throw, as above.
template <class Loader, class Net>
requires(!std::derived_from<std::remove_cvref_t<Loader>, torch::nn::Module>) void update_bn(
    Loader&& loader, Net model, std::optional<at::Device> device = std::nullopt) {
  update_bn(static_cast<torch::nn::Module&>(*model), [&] {
    for (auto&& batch : loader) {
      const at::Tensor input = detail::input_of(batch);
      model->forward(device ? input.to(*device) : input);
    }
  });
}

}  // namespace lockstep::optim
