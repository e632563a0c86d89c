// SPDX-License-Identifier: BSD-3-Clause
#include "data/value_tensors.h"

#include <ATen/ops/empty_like.h>

namespace lockstep::data {

Value map_tensors(const Value& value, const std::function<at::Tensor(const at::Tensor&)>& change) {
  if (value.is_tensor()) return change(value.tensor());
  if (value.is_list()) {
    Value::List result;
    for (const auto& child : value.list()) result.push_back(map_tensors(child, change));
    return result;
  }
  if (value.is_map()) {
    Value::Map result;
    for (const auto& [key, child] : value.map()) result.emplace(key, map_tensors(child, change));
    return result;
  }
  return value;
}

Value clone_into_pinned_memory(const Value& value) {
  return map_tensors(value, [](const at::Tensor& tensor) {
    if (!tensor.is_cpu()) return tensor;
    if (tensor.layout() != at::kStrided) return tensor.pin_memory();
    return at::empty_like(tensor, tensor.options().pinned_memory(true)).copy_(tensor);
  });
}

}  // namespace lockstep::data
