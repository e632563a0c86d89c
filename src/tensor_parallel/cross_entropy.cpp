// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_assert_async.h>
#include <lockstep/tensor_parallel/cross_entropy.h>

#include <utility>

#include "tensor_parallel/vocab_cross_entropy.h"

namespace lockstep::nn {
namespace {

void check_shapes(const at::Tensor& logits, const at::Tensor& targets) {
  TORCH_CHECK(logits.defined() && targets.defined(),
              "VocabParallelCrossEntropy: logits or targets are undefined");
  TORCH_CHECK(logits.is_floating_point(),
              "VocabParallelCrossEntropy: expected logits of a floating-point dtype, got ",
              logits.scalar_type());
  TORCH_CHECK(targets.scalar_type() == at::kLong,
              "VocabParallelCrossEntropy: expected int64 targets, got ", targets.scalar_type());
  TORCH_CHECK(
      logits.dim() >= 1 && logits.size(-1) > 0 &&
          logits.sizes().slice(0, static_cast<std::size_t>(logits.dim()) - 1) == targets.sizes(),
      "VocabParallelCrossEntropy: expected logits {*, classes / ranks} and targets {*}, got ",
      logits.sizes(), " and ", targets.sizes());
}

void check_classes(const at::Tensor& targets, const at::Tensor& counts, std::int64_t classes) {
  if (!targets.is_cpu() && !targets.is_cuda()) return;
  const at::Tensor is_wrong = targets.lt(0).logical_or(targets.ge(classes)).logical_and(counts);
  if (targets.is_cuda()) {
    return at::_assert_async(is_wrong.any().logical_not(),
                             "VocabParallelCrossEntropy: a target that is no class");
  }
  if (!is_wrong.any().item<bool>()) return;
  const at::Tensor first = targets.masked_select(is_wrong).select(0, 0);
  TORCH_CHECK(false, "VocabParallelCrossEntropy: a target is ", first.item<std::int64_t>(),
              "; classes are from 0 to ", classes - 1, ", or the ignore_index");
}

const char* name_of(VocabParallelCrossEntropyOptions::Reduction reduction) {
  using Reduction = VocabParallelCrossEntropyOptions::Reduction;
  if (reduction == Reduction::None) return "None";
  return reduction == Reduction::Mean ? "Mean" : "Sum";
}

}  // namespace

VocabParallelCrossEntropyImpl::VocabParallelCrossEntropyImpl(
    VocabParallelCrossEntropyOptions its_options)
    : options(std::move(its_options)) {
  TORCH_CHECK(options.group() != nullptr, "VocabParallelCrossEntropy: the process group is null");
  TORCH_CHECK(options.label_smoothing() >= 0 && options.label_smoothing() <= 1,
              "VocabParallelCrossEntropy: label_smoothing is ", options.label_smoothing(),
              "; it must be from 0 to 1");
  TORCH_CHECK(options.classes() == 0 || options.classes() >= options.group()->size(),
              "VocabParallelCrossEntropy: classes is ", options.classes(),
              "; it must be 0, or at least 1 for each of the ", options.group()->size(), " ranks");
}

void VocabParallelCrossEntropyImpl::pretty_print(std::ostream& stream) const {
  stream << "lockstep::nn::VocabParallelCrossEntropy(ignore_index=" << options.ignore_index()
         << ", label_smoothing=" << options.label_smoothing()
         << ", reduction=" << name_of(options.reduction()) << ", classes=" << options.classes()
         << ", ranks=" << options.group()->size() << ')';
}

torch::Tensor VocabParallelCrossEntropyImpl::forward(const torch::Tensor& logits,
                                                     const torch::Tensor& targets) {
  using Reduction = VocabParallelCrossEntropyOptions::Reduction;
  check_shapes(logits, targets);
  const at::Tensor counts = targets.ne(options.ignore_index());
  const auto classes =
      options.classes() > 0 ? options.classes() : logits.size(-1) * options.group()->size();
  const bool is_double = logits.scalar_type() == at::kDouble;
  // Autocast keeps the losses of LibTorch in float.
  const bool is_float = at::autocast::is_autocast_enabled(logits.device().type()) && !is_double;
  const auto dtype = is_float ? at::kFloat : logits.scalar_type();
  const at::Tensor rows =
      logits.reshape({-1, logits.size(-1)}).to(is_double ? at::kDouble : at::kFloat).contiguous();
  const at::Tensor losses = vocab_cross_entropy(
      rows, targets.reshape({-1}).contiguous(),
      {options.ignore_index(), options.label_smoothing(), classes}, options.group());
  // After the call in which the ranks compare their numbers of classes: that error explains this
  // one, and a rank that throws before it leaves the others waiting.
  check_classes(targets, counts, classes);
  switch (options.reduction()) {
    case Reduction::None:
      return losses.view(targets.sizes()).to(dtype);
    case Reduction::Sum:
      return losses.sum().to(dtype);
    default:
      return (losses.sum() / counts.sum()).to(dtype);
  }
}

}  // namespace lockstep::nn
