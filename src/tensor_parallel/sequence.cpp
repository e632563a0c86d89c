// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <lockstep/tensor_parallel/embedding.h>
#include <lockstep/tensor_parallel/linear.h>
#include <lockstep/tensor_parallel/regions.h>
#include <lockstep/tensor_parallel/sequence.h>
#include <torch/csrc/autograd/cpp_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <ios>
#include <optional>
#include <set>
#include <utility>

#include "tensor_parallel/collective_step.h"
#include "tensor_parallel/shards.h"

namespace lockstep::nn {
namespace {

/// On a parameter: sums its gradient before it is accumulated.
struct SumOverSequence {
  at::TensorBase operator()(const at::TensorBase& gradient) const {
    if (!gradient.defined()) return gradient;
    return tensor_parallel::reduce_from(at::Tensor(gradient), group);
  }
  std::shared_ptr<ProcessGroup> group;
};

/// Whether the parameter has it among the hooks that `register_hook` gives. (Hooks of any other
/// kind are dropped when a program registers one of its own.)
bool has_hook(const at::Tensor& parameter) {
  const auto* const meta = torch::autograd::impl::get_autograd_meta(parameter);
  if (meta == nullptr || meta->cpp_hooks_list_ == nullptr) return false;
  const auto& hooks = *meta->cpp_hooks_list_;
  return std::any_of(hooks.begin(), hooks.end(), [](const auto& hook) {
    return hook.template target<SumOverSequence>() != nullptr;
  });
}

/// Whether all of the module's own parameters get the right gradients by its own doing.
bool sums_itself(const torch::nn::Module& module) {
  return dynamic_cast<const ParallelLinearImpl*>(&module) != nullptr ||
         dynamic_cast<const VocabParallelEmbeddingImpl*>(&module) != nullptr ||
         dynamic_cast<const SequenceParallelLayerNormImpl*>(&module) != nullptr;
}

/// The parameters below whose gradients are not partial: those of this library's layers, and what
/// other modules cut.
void collect_own(const torch::nn::Module& module, std::set<const void*>& own) {
  const auto parameters = module.named_parameters(/*recurse=*/false);
  if (sums_itself(module)) {
    for (const auto& parameter : parameters) own.insert(parameter.value().unsafeGetTensorImpl());
  } else if (const auto* const sharded = dynamic_cast<const ShardedModule*>(&module)) {
    for (const ShardedTensor& how : sharded->sharded_tensors()) {
      const auto* const parameter = parameters.find(how.name);
      if (parameter != nullptr) own.insert(parameter->unsafeGetTensorImpl());
    }
  }
  for (const auto& child : module.children()) collect_own(*child, own);
}

}  // namespace

SequenceParallelLayerNormImpl::SequenceParallelLayerNormImpl(
    const torch::nn::LayerNormOptions& its_options, std::shared_ptr<ProcessGroup> group)
    : options(its_options), group_(std::move(group)) {
  TORCH_CHECK(group_ != nullptr, "SequenceParallelLayerNorm: the process group is null");
  SequenceParallelLayerNormImpl::reset();
}

void SequenceParallelLayerNormImpl::reset() {
  const bool is_affine = options.elementwise_affine();
  at::Tensor ones, zeros;
  if (is_affine) {
    ones = at::ones(options.normalized_shape());
    zeros = at::zeros(options.normalized_shape());
  }
  weight = register_parameter("weight", std::move(ones), is_affine);
  bias = register_parameter("bias", std::move(zeros), is_affine);
}

void SequenceParallelLayerNormImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << "lockstep::nn::SequenceParallelLayerNorm("
         << at::IntArrayRef(options.normalized_shape()) << ", eps=" << options.eps()
         << ", elementwise_affine=" << options.elementwise_affine() << ", ranks=" << group_->size()
         << ')';
}

torch::Tensor SequenceParallelLayerNormImpl::forward(const torch::Tensor& input) {
  const auto own = [&](const torch::Tensor& parameter) -> std::optional<torch::Tensor> {
    if (!parameter.defined()) return std::nullopt;
    return tensor_parallel::copy_to(parameter, group_);
  };
  return at::layer_norm(input, options.normalized_shape(), own(weight), own(bias), options.eps());
}

std::size_t sum_gradients_of_sequence(torch::nn::Module& module,
                                      const std::shared_ptr<ProcessGroup>& group) {
  TORCH_CHECK(group != nullptr, "sum_gradients_of_sequence: the process group is null");
  std::set<const void*> own;
  collect_own(module, own);
  std::vector<at::Tensor> found;
  for (const auto& parameter : module.named_parameters()) {
    const at::Tensor& tensor = parameter.value();
    if (!own.insert(tensor.unsafeGetTensorImpl()).second) continue;
    TORCH_CHECK(tensor.requires_grad(), "sum_gradients_of_sequence: ", parameter.key(),
                " needs no gradient; freeze parameters afterwards");
    if (!has_hook(tensor)) found.push_back(tensor);
  }
  for (const at::Tensor& parameter : found) {
    const at::TensorBase& base = parameter;  // whose hooks keep their type
    (void)base.register_hook(SumOverSequence{group});
  }
  return found.size();
}

}  // namespace lockstep::nn
