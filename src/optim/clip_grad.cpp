// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_clamp_max.h>
#include <ATen/ops/_foreach_clamp_min.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <lockstep/optim/clip_grad.h>

#include <cmath>
#include <unordered_set>

#include "optim/tensor_groups.h"

namespace lockstep::optim {
namespace {

/// The gradients as dense tensors: of a sparse one, its coalesced values.
std::vector<at::Tensor> dense_gradients(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  std::unordered_set<const void*> seen;
  for (const at::Tensor& parameter : parameters) {
    if (!parameter.defined()) continue;
    at::Tensor& gradient = parameter.mutable_grad();
    if (!gradient.defined() || !seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
    if (!gradient.is_sparse()) {
      gradients.push_back(gradient);
      continue;
    }
    // Rows that are there several times have to be added first: a norm is none of their parts.
    if (!gradient.is_coalesced()) gradient = gradient.coalesce();
    gradients.push_back(gradient._values());
  }
  return gradients;
}

void check_bound(const char* function, const char* name, double bound) {
  TORCH_CHECK(bound >= 0, function, ": ", name, " is ", bound, "; it must be 0 or more");
}

at::Tensor norm_of(const std::vector<at::Tensor>& tensors, double norm_type) {
  if (tensors.empty()) return at::zeros({});
  std::vector<at::Tensor> norms;
  for (const auto& indices : group_by_device_and_dtype(tensors)) {
    for (const at::Tensor& norm : at::_foreach_norm(select(tensors, indices), norm_type)) {
      norms.push_back(norm.to(tensors.front().device()));
    }
  }
  return at::linalg_vector_norm(at::stack(norms), norm_type);
}

void multiply_by(const std::vector<at::Tensor>& gradients, double max_norm,
                 const at::Tensor& total_norm) {
  // Multiplying by 1 costs less than asking a device whether it is 1. Python divides a number by a
  // tensor in two steps, which rounds twice.
  const at::Tensor factor =
      at::clamp((total_norm + 1e-6).reciprocal() * max_norm, std::nullopt, 1.0);
  for (const auto& indices : group_by_device_and_dtype(gradients)) {
    const auto some = select(gradients, indices);
    at::_foreach_mul_(some, factor.to(some.front().device()));
  }
}

}  // namespace

at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                           double norm_type, bool error_if_nonfinite) {
  check_bound("clip_grad_norm_", "max_norm", max_norm);
  const at::NoGradGuard no_gradients;
  const auto gradients = dense_gradients(parameters);
  at::Tensor total = get_total_norm(gradients, norm_type, error_if_nonfinite);
  multiply_by(gradients, max_norm, total);
  return total;
}

at::Tensor get_total_norm(const std::vector<at::Tensor>& tensors, double norm_type,
                          bool error_if_nonfinite) {
  const at::NoGradGuard no_gradients;
  at::Tensor total = norm_of(tensors, norm_type);
  if (error_if_nonfinite) {
    const auto value = total.item<double>();
    TORCH_CHECK(std::isfinite(value), "the norm of order ", norm_type, " of ", tensors.size(),
                " gradients is ", value,
                "; they cannot be clipped. Where a GradScaler is used, its step() skips such a "
                "step: clip without error_if_nonfinite then");
  }
  return total;
}

void clip_grads_with_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                           const at::Tensor& total_norm) {
  check_bound("clip_grads_with_norm_", "max_norm", max_norm);
  const at::NoGradGuard no_gradients;
  multiply_by(dense_gradients(parameters), max_norm, total_norm);
}

void clip_grad_value_(const std::vector<at::Tensor>& parameters, double clip_value) {
  check_bound("clip_grad_value_", "clip_value", clip_value);
  const at::NoGradGuard no_gradients;
  const auto gradients = dense_gradients(parameters);
  for (const auto& indices : group_by_device_and_dtype(gradients)) {
    const auto some = select(gradients, indices);
    at::_foreach_clamp_min_(some, -clip_value);
    at::_foreach_clamp_max_(some, clip_value);
  }
}

}  // namespace lockstep::optim
