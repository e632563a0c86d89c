// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <lockstep/tensor_parallel/regions.h>
#include <lockstep/tensor_parallel/sequence.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <ios>
#include <optional>
#include <set>
#include <utility>

#include "tensor_parallel/collective_step.h"
#include "tensor_parallel/shards.h"

namespace lockstep::nn {
namespace {

using torch::autograd::variable_list;

/// On a parameter: sums its gradient before it is accumulated.
class SumOverSequence : public torch::autograd::FunctionPreHook {
 public:
  explicit SumOverSequence(std::shared_ptr<ProcessGroup> group) : group_(std::move(group)) {}

  variable_list operator()(const variable_list& gradients) override {
    variable_list sums = gradients;
    // The gradient of a parameter comes alone.
    if (sums.at(0).defined()) sums[0] = tensor_parallel::reduce_from(sums[0], group_);
    return sums;
  }

 private:
  std::shared_ptr<ProcessGroup> group_;
};

bool has_hook(const at::Tensor& parameter) {
  for (const auto& hook : torch::autograd::impl::hooks(parameter)) {
    if (dynamic_cast<const SumOverSequence*>(hook.get()) != nullptr) return true;
  }
  return false;
}

/// Parameters of the sharded modules below, which see to their gradients themselves.
void collect_own(const torch::nn::Module& module, std::set<const void*>& own) {
  if (dynamic_cast<const ShardedModule*>(&module) != nullptr ||
      dynamic_cast<const SequenceParallelLayerNormImpl*>(&module) != nullptr) {
    for (const auto& parameter : module.parameters()) own.insert(parameter.unsafeGetTensorImpl());
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
    torch::autograd::impl::add_hook(parameter, std::make_unique<SumOverSequence>(group));
  }
  return found.size();
}

}  // namespace lockstep::nn
