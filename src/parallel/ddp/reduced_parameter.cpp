// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reduced_parameter.h"

#include <c10/util/Exception.h>

#include <unordered_set>

namespace lockstep {

bool has_gradient_of_its_shape(const at::Tensor& parameter) {
  const at::Tensor& gradient = parameter.grad();
  return gradient.defined() && gradient.sizes() == parameter.sizes();
}

void ReducedParameter::check_gradient(const at::Tensor& incoming, bool is_paused) const {
  const at::Tensor& gradient = tensor.grad();
  TORCH_CHECK(!gradient.defined() || !gradient.requires_grad(),
              "DistributedDataParallel: the gradient of parameter '", name,
              "' has a graph of its own (backward with create_graph); averages cannot be "
              "differentiated. Use torch::autograd::grad for the inner derivative");
  TORCH_CHECK(gradient.defined() || !incoming.defined() || is_paused,
              "DistributedDataParallel: something took the gradient of parameter '", name,
              "' away before it could be averaged, as an optimizer that steps in a hook does; step "
              "when backward is over");
}

bool ReducedParameter::is_written_by_another(const GradientListener& than) const {
  return listeners && listeners->is_written_by_another(than);
}

void ReducedParameter::set_aside() {
  at::Tensor& gradient = tensor.mutable_grad();
  if (!aside.defined()) {
    aside = gradient;
  } else if (aside.layout() != at::kStrided && gradient.layout() == at::kStrided) {
    aside = aside.add(gradient.to_sparse(aside.sparse_dim()));
  } else {
    aside = aside.add(gradient);
  }
  gradient.reset();
}

void ReducedParameter::reset() noexcept {
  count = 0;
  is_sparse = is_late = is_used = is_shared = false;
  aside.reset();
  kept.reset();
  late.reset();
}

std::vector<ReducedParameter> make_reduced_parameters(const NamedTensors& parameters,
                                                      const std::vector<GradientShape>& shapes) {
  std::vector<ReducedParameter> reduced(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    reduced[i].name = parameters[i].first;
    reduced[i].tensor = parameters[i].second;
    reduced[i].dtype = shapes[i].dtype;
  }
  return reduced;
}

std::vector<at::Tensor> waiting_in(const std::vector<ReducedParameter>& parameters) {
  std::vector<at::Tensor> waiting;
  for (const ReducedParameter& parameter : parameters) {
    if (parameter.is_waiting()) waiting.push_back(parameter.tensor);
  }
  return waiting;
}

void set_waiting(std::vector<ReducedParameter>& parameters,
                 const std::vector<at::Tensor>& waiting) {
  std::unordered_set<const c10::TensorImpl*> wait;
  for (const at::Tensor& parameter : waiting) {
    if (has_gradient_of_its_shape(parameter)) wait.insert(parameter.unsafeGetTensorImpl());
  }
  for (ReducedParameter& parameter : parameters) {
    parameter.is_used = wait.contains(parameter.tensor.unsafeGetTensorImpl());
  }
}

}  // namespace lockstep
