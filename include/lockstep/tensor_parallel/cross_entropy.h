// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <utility>

namespace lockstep::nn {

/// Options of `VocabParallelCrossEntropy`.
///
/// Thread-safety: a value.
struct LOCKSTEP_API VocabParallelCrossEntropyOptions {
  /// What becomes of the losses of the tokens.
  enum class Reduction {
    None,  ///< they are the result
    Mean,  ///< their mean, over the tokens that count
    Sum,   ///< their sum
  };

  /// Classes that the ranks of `group` share.
  explicit VocabParallelCrossEntropyOptions(std::shared_ptr<ProcessGroup> group)
      : group_(std::move(group)) {}

  /// The ranks that share the classes.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, group);
  /// How many there are; 0: as many times a rank's as there are ranks. Needed where the ranks
  /// cannot share them equally; the first `classes % ranks` of them have one more, as those of a
  /// `VocabParallelEmbedding`.
  TORCH_ARG(std::int64_t, classes) = 0;
  /// Target of tokens that do not count.
  TORCH_ARG(std::int64_t, ignore_index) = -100;
  /// Share of the loss that asks for all classes equally, from 0 to 1, as in
  /// `torch::nn::CrossEntropyLoss`.
  TORCH_ARG(double, label_smoothing) = 0.0;
  /// What becomes of the losses of the tokens.
  TORCH_ARG(Reduction, reduction) = Reduction::Mean;
};

/// The cross entropy of logits whose classes the ranks share, without gathering the logits: what
/// `torch::nn::CrossEntropyLoss` would give for all of them, on every rank.
///
/// Forward exchanges three numbers a token (four with label smoothing) and the ranks' numbers of
/// classes in one call; backward
/// exchanges nothing. Each rank keeps one tensor of its logits' shape, in float or double, which
/// becomes the gradient unless the graph is retained. Half and BFloat16 are computed in float, and
/// the loss is rounded to their dtype except under autocast. There are no weights of classes, and
/// no second derivative.
///
/// Shapes: logits {*, classes / ranks}, rank r's being the r-th part of the classes, which are the
/// last dimension; targets int64 {*}, the same on all ranks. The option `classes` allows numbers
/// that the ranks do not divide.
/// Blocks: the calling thread, in forward.
/// Collective: forward.
/// Thread-safety: as its group's, one thread at a time.
/// Throws: `c10::Error` for shapes or dtypes that do not fit, for a label smoothing outside of
/// [0, 1], where the result is differentiated twice, and for a target that is no class (on a CUDA
/// device, as an assertion there); what a collective throws. Ranks whose numbers of logits are not
/// their shares of the classes get a `c10::Error`, or a `MismatchError` where the group compares
/// calls, all of them (on a CUDA device, an assertion).
/// Source: Shoeybi et al., "Megatron-LM", 2019. Here, the maxima of the ranks are exchanged
/// together with sums that are relative to them, instead of before.
class LOCKSTEP_API VocabParallelCrossEntropyImpl
    : public torch::nn::Cloneable<VocabParallelCrossEntropyImpl> {
 public:
  /// A loss with these options.
  explicit VocabParallelCrossEntropyImpl(VocabParallelCrossEntropyOptions options);
  /// A loss with default options.
  explicit VocabParallelCrossEntropyImpl(std::shared_ptr<ProcessGroup> group)
      : VocabParallelCrossEntropyImpl(VocabParallelCrossEntropyOptions(std::move(group))) {}
  /// Does nothing: there are no parameters.
  void reset() override {}
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;
  /// The loss; shapes, collectives and errors as the class says.
  torch::Tensor forward(const torch::Tensor& logits, const torch::Tensor& targets);

  VocabParallelCrossEntropyOptions options;  ///< as given
};

/// Holder of a `VocabParallelCrossEntropyImpl`, as LibTorch's modules have.
TORCH_MODULE(VocabParallelCrossEntropy);

}  // namespace lockstep::nn
