// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <lockstep/optim/clip_grad.h>
#include <lockstep/tensor_parallel/clip_grad.h>

#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "tensor_parallel/shards.h"

namespace lockstep::nn {
namespace {

/// The values of a gradient, of which a sparse one has rows several times.
at::Tensor values_of(const at::Tensor& gradient) {
  return gradient.is_sparse() ? gradient.coalesce()._values() : gradient;
}

/// What has the same norm in float: a norm easily passes the end of Half's range.
std::vector<at::Tensor> widened(std::vector<at::Tensor> tensors, double norm_type) {
  for (at::Tensor& tensor : tensors) {
    if (!at::isReducedFloatingType(tensor.scalar_type())) continue;
    tensor = at::linalg_vector_norm(tensor, norm_type, std::nullopt, /*keepdim=*/false, at::kFloat);
  }
  return tensors;
}

/// The gradients of a model, each once.
struct Gradients {
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> replicated;
  std::map<const ProcessGroup*, std::vector<at::Tensor>> sharded;
};

Gradients gradients_of(const ModelState& state) {
  Gradients gradients;
  std::set<const void*> seen;
  for (const StateEntry& entry : state.entries) {
    if (!seen.insert(entry.tensor.unsafeGetTensorImpl()).second) continue;
    if (!entry.tensor.is_leaf() || !entry.tensor.grad().defined()) continue;
    gradients.parameters.push_back(entry.tensor);
    auto& same = entry.is_sharded() ? gradients.sharded[entry.group.get()] : gradients.replicated;
    same.push_back(values_of(entry.tensor.grad()));
  }
  return gradients;
}

/// Where norms are put together: the device of the model.
at::TensorOptions options_of(const ModelState& state) {
  const auto device = state.entries.empty() ? at::kCPU : state.entries.front().tensor.device();
  return at::TensorOptions().dtype(at::kDouble).device(device);
}

at::Tensor total_norm(const ModelState& state, const Gradients& gradients, double norm_type) {
  const auto options = options_of(state);
  const auto norm_of = [&](const std::vector<at::Tensor>& tensors) {
    return optim::get_total_norm(widened(tensors, norm_type), norm_type)
        .to(options.device(), at::kDouble);
  };
  at::Tensor replicated = norm_of(gradients.replicated);
  std::vector<at::Tensor> norms;
  for (const auto& group : state.groups) {
    const auto found = gradients.sharded.find(group.get());
    const at::Tensor own =
        found == gradients.sharded.end() ? at::zeros({}, options) : norm_of(found->second);
    const at::Tensor all = at::empty({group->size(), 2}, options);
    const auto scope = group->with(CallOptions().name("clip_grad_norm_"));
    group->all_gather(all, at::stack({own, replicated})).wait();
    norms.push_back(at::linalg_vector_norm(all.select(1, 0), norm_type));
    // The ranks should have the same one; with the first rank's they multiply alike in any case.
    replicated = all.select(0, 0).select(0, 1);
  }
  norms.push_back(replicated);
  return at::linalg_vector_norm(at::stack(norms), norm_type);
}

}  // namespace

at::Tensor clip_grad_norm_(torch::nn::Module& module, double max_norm, double norm_type,
                           bool error_if_nonfinite) {
  TORCH_CHECK(max_norm >= 0, "clip_grad_norm_: max_norm is ", max_norm, "; it must be 0 or more");
  TORCH_CHECK(norm_type > 0, "clip_grad_norm_: norm_type is ", norm_type,
              "; it must be positive, or infinity");
  const at::NoGradGuard no_grad;
  const ModelState state = survey(module);
  const Gradients gradients = gradients_of(state);
  const at::Tensor total = total_norm(state, gradients, norm_type);
  if (error_if_nonfinite) {
    const auto value = total.item<double>();
    TORCH_CHECK(std::isfinite(value), "the norm of order ", norm_type,
                " of the gradients of the full model is ", value, "; they cannot be clipped");
  }
  if (gradients.parameters.empty()) return total;
  const auto dtype = gradients.parameters.front().grad().scalar_type();
  const auto width = dtype == at::kDouble ? at::kDouble : at::kFloat;  // a device is fast with it
  optim::clip_grads_with_norm_(gradients.parameters, max_norm, total.to(width));
  return total.to(dtype);
}

}  // namespace lockstep::nn
