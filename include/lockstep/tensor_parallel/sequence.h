// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/options/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <memory>
#include <ostream>

/// @file
/// Parameters that every rank has and uses on its part of a sequence: their gradients are partial,
/// and must be added over the tensor group. Here, backward adds them itself, so that no step of a
/// program can forget it.
///
/// Thread-safety: as a `torch::nn::Module`'s; backward uses the group.

namespace lockstep::nn {

/// `torch::nn::LayerNorm` for a sequence that is cut: in backward, the gradients of weight and bias
/// are summed over the ranks. The names of the parameters are those of LibTorch's module.
///
/// Shapes: as `torch::nn::LayerNorm`.
/// Blocks: the calling thread, in backward.
/// Collective: backward.
/// Thread-safety: as its group's, one thread at a time; on a device, backward runs in autograd's
/// thread.
/// Throws: `c10::Error` for a null group; what a collective throws.
class LOCKSTEP_API SequenceParallelLayerNormImpl
    : public torch::nn::Cloneable<SequenceParallelLayerNormImpl> {
 public:
  /// A new layer, with the values of `torch::nn::LayerNorm`.
  SequenceParallelLayerNormImpl(const torch::nn::LayerNormOptions& options,
                                std::shared_ptr<ProcessGroup> group);
  /// Weight 1 and bias 0.
  void reset() override;
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;
  /// The input, normalised.
  torch::Tensor forward(const torch::Tensor& input);

  torch::nn::LayerNormOptions options;  ///< as given
  torch::Tensor weight;                 ///< undefined without `elementwise_affine`
  torch::Tensor bias;                   ///< undefined without `elementwise_affine`

 private:
  std::shared_ptr<ProcessGroup> group_;
};

/// Holder of a `SequenceParallelLayerNormImpl`, as LibTorch's modules have.
TORCH_MODULE(SequenceParallelLayerNorm);

/// Makes backward sum the gradients of all parameters of `module` over `group`, for any module that
/// is used on parts of a sequence; returns how many it is. Left out are the parameters of layers
/// of this folder, which do what is right themselves, and of any other `ShardedModule` those that
/// it cuts. A parameter that was given before is not summed twice. The sum is one of the hooks that
/// `register_hook` makes: those registered later see it. A clone of the module has to be given
/// again.
///
/// Blocks: nothing; later each backward blocks the calling thread.
/// Collective: each backward.
/// Throws: `c10::Error` for a null group, and for a parameter that needs no gradient.
LOCKSTEP_API std::size_t sum_gradients_of_sequence(torch::nn::Module& module,
                                                   const std::shared_ptr<ProcessGroup>& group);

/// The same for the module of a holder.
template <typename Contained>
std::size_t sum_gradients_of_sequence(const torch::nn::ModuleHolder<Contained>& module,
                                      const std::shared_ptr<ProcessGroup>& group) {
  return sum_gradients_of_sequence(static_cast<torch::nn::Module&>(*module.ptr()), group);
}

}  // namespace lockstep::nn
