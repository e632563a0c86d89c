// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/module_tensors.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace lockstep {
namespace {

using TensorSet = std::unordered_set<const c10::TensorImpl*>;

template <typename Items>
NamedTensors to_list(const Items& items, const std::vector<std::string>& ignored) {
  NamedTensors list;
  for (const auto& item : items) {
    const bool is_ignored = std::find(ignored.begin(), ignored.end(), item.key()) != ignored.end();
    if (!is_ignored) list.emplace_back(item.key(), item.value());
  }
  return list;
}

}  // namespace

NamedTensors parameters_of(const torch::nn::Module& module,
                           const std::vector<std::string>& ignored) {
  return to_list(module.named_parameters(), ignored);
}

NamedTensors buffers_of(const torch::nn::Module& module, const std::vector<std::string>& ignored) {
  return to_list(module.named_buffers(), ignored);
}

NamedTensors state_of(const torch::nn::Module& module, const std::vector<std::string>& ignored) {
  NamedTensors state = parameters_of(module, ignored);
  for (auto& buffer : buffers_of(module, ignored)) state.push_back(std::move(buffer));
  return state;
}

NamedTensors distinct(NamedTensors parameters) {
  TensorSet seen;
  std::erase_if(parameters, [&](const auto& named) {
    return named.second.numel() == 0 || !seen.insert(named.second.unsafeGetTensorImpl()).second;
  });
  return parameters;
}

NamedTensors with_gradient(NamedTensors parameters) {
  std::erase_if(parameters, [](const auto& named) { return !named.second.requires_grad(); });
  return distinct(std::move(parameters));
}

NamedTensors without(const std::vector<at::Tensor>& known, const NamedTensors& tensors) {
  TensorSet seen;
  for (const at::Tensor& tensor : known) seen.insert(tensor.unsafeGetTensorImpl());
  NamedTensors rest;
  for (const auto& named : tensors) {
    if (!seen.contains(named.second.unsafeGetTensorImpl())) rest.push_back(named);
  }
  return rest;
}

}  // namespace lockstep
