// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/optim/update_bn.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/options/batchnorm.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <ostream>
#include <utility>

namespace lockstep::nn {

/// Batch normalisation with the mean and variance of the global batch: what
/// `torch::nn::BatchNorm1d`, `2d` and `3d` would give if all ranks' samples were one batch.
///
/// While training, forward makes one `all_gather` and backward one `all_reduce` (none where the
/// input needs no gradient), so all ranks call both equally often. Ranks may have different numbers
/// of samples, also none. The gradients of `weight` and `bias` are those of this rank's samples;
/// `DistributedDataParallel` averages them like all others. In evaluation mode and in a world of
/// one it does what LibTorch's module does, and no rank needs another. Half and BFloat16 are
/// accumulated in float.
///
/// Parameters and buffers are named as those of LibTorch's module, so either reads what the other
/// saved.
///
/// Shapes: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W); C and the dtype are the same on all
/// ranks. The memory format of the input is kept.
/// Blocks: the calling thread, forward and backward, while training.
/// Collective: forward while training, and its backward.
/// Thread-safety: as its group's, one thread at a time; on a device, backward runs in autograd's
/// thread.
/// Throws: `c10::Error` for a wrong number of dimensions or channels, for a single value a channel
/// over all ranks, for a closed group, and where the result is differentiated twice; what a
/// collective throws.
/// Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015; the variances
/// are combined as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
/// Computing Sample Variances", 1979.
class LOCKSTEP_API SyncBatchNormImpl : public torch::nn::Cloneable<SyncBatchNormImpl>,
                                       public optim::TracksBatches {
 public:
  /// A new layer whose ranks are those of `group`.
  /// Throws: `c10::Error` for a null group.
  SyncBatchNormImpl(const torch::nn::BatchNormOptions& options,
                    std::shared_ptr<ProcessGroup> group);
  /// A new layer without a group, for models that are built before there is one. Training needs a
  /// group: `convert_sync_batchnorm` or `set_process_group` gives the layer one.
  explicit SyncBatchNormImpl(const torch::nn::BatchNormOptions& options);
  /// Takes over a LibTorch batch norm: options, mode, and its very parameters and buffers, so that
  /// an optimizer that knows them still does.
  template <std::size_t D, typename Derived>
  SyncBatchNormImpl(
      const torch::nn::NormImplBase<D, Derived, torch::nn::BatchNormOptions>& batch_norm,
      std::shared_ptr<ProcessGroup> group)
      : SyncBatchNormImpl(batch_norm.options,
                          {batch_norm.weight, batch_norm.bias, batch_norm.running_mean,
                           batch_norm.running_var, batch_norm.num_batches_tracked},
                          std::move(group)) {
    train(batch_norm.is_training());
  }

  /// Registers new parameters and buffers, as the options say, with their values at the start.
  void reset() override;
  /// Forgets all batches: mean 0, variance 1, no batch counted.
  void reset_running_stats();
  /// Weight 1, bias 0, and `reset_running_stats`.
  void reset_parameters();
  /// `reset_running_stats`, for `optim::update_bn`.
  void forget_batches() override { reset_running_stats(); }
  /// That of `options`.
  [[nodiscard]] std::optional<double> momentum() const override { return options.momentum(); }
  /// Sets that of `options`.
  void set_momentum(std::optional<double> momentum) override { options.momentum(momentum); }
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;

  /// The input, normalised; shapes, collectives and errors as the class says.
  torch::Tensor forward(const torch::Tensor& input);

  /// The group whose ranks are normalised over; null where there is none yet.
  [[nodiscard]] const std::shared_ptr<ProcessGroup>& process_group() const noexcept {
    return group_;
  }
  /// From now on the ranks are those of `group`.
  /// Throws: `c10::Error` for a null group.
  void set_process_group(std::shared_ptr<ProcessGroup> group);

  /// These members are named as in LibTorch's module.
  torch::nn::BatchNormOptions options;
  torch::Tensor weight;               ///< {C}; undefined without affine
  torch::Tensor bias;                 ///< {C}; undefined without affine
  torch::Tensor running_mean;         ///< {C}; undefined without track_running_stats
  torch::Tensor running_var;          ///< {C}; undefined without track_running_stats
  torch::Tensor num_batches_tracked;  ///< {}; undefined without track_running_stats

 private:
  struct State {
    torch::Tensor weight, bias, running_mean, running_var, num_batches_tracked;
  };
  SyncBatchNormImpl(const torch::nn::BatchNormOptions& options, State state,
                    std::shared_ptr<ProcessGroup> group);

  void register_state(State state, bool weight_requires_grad, bool bias_requires_grad);
  void check_input(const torch::Tensor& input) const;
  torch::Tensor forward_locally(const torch::Tensor& input, bool use_batch);
  torch::Tensor forward_over_ranks(const torch::Tensor& input);
  /// Counts a batch; returns the weight of it in the running statistics.
  double count_batch();

  std::shared_ptr<ProcessGroup> group_;
};

/// Holder of a `SyncBatchNormImpl`, as LibTorch's modules have.
TORCH_MODULE(SyncBatchNorm);

/// Makes the batch norms in `root` normalise over all ranks of `group`, and returns how many it
/// changed. It changes all of them or none: before anything changes it makes sure that each can be.
///
/// - A `SyncBatchNorm` without a group gets this one; one that has a group keeps it.
/// - A `torch::nn::BatchNorm1d`, `2d` or `3d` that only `Sequential`, `ModuleList`, `ModuleDict` or
///   the registration of a module hold is replaced by a `SyncBatchNorm` with the same tensors. Code
///   that asks for it by type must ask for a `SyncBatchNorm` from then on.
/// - One that something else holds as well, as a rule a member `torch::nn::BatchNorm2d bn`, cannot
///   be replaced: the calls in the model's forward are bound to its type when it is compiled.
///   Declare such a member as `lockstep::nn::SyncBatchNorm`.
///
/// Thread-safety: as the module's.
/// Throws: `c10::Error` that names each batch norm that cannot be converted, by its path; for a
/// null group.
LOCKSTEP_API std::size_t convert_sync_batchnorm(torch::nn::Module& root,
                                                const std::shared_ptr<ProcessGroup>& group);

/// Converts the module of a holder.
template <typename Contained>
std::size_t convert_sync_batchnorm(const torch::nn::ModuleHolder<Contained>& root,
                                   const std::shared_ptr<ProcessGroup>& group) {
  return convert_sync_batchnorm(static_cast<torch::nn::Module&>(*root.ptr()), group);
}

}  // namespace lockstep::nn
