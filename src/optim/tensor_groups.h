// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace lockstep::optim {

/// Indices of tensors that one foreach operator takes: those of one device and dtype. Groups and
/// the tensors of a group are in order of appearance.
inline std::vector<std::vector<std::size_t>> group_by_device_and_dtype(
    const std::vector<at::Tensor>& tensors) {
  using Key = std::pair<c10::Device, at::ScalarType>;
  std::vector<Key> keys;
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Key key{tensors[i].device(), tensors[i].scalar_type()};
    const auto found = std::find(keys.begin(), keys.end(), key);
    const auto place = static_cast<std::size_t>(found - keys.begin());
    if (found == keys.end()) {
      keys.push_back(key);
      groups.emplace_back();
    }
    groups[place].push_back(i);
  }
  return groups;
}

/// The tensors at these indices.
inline std::vector<at::Tensor> select(const std::vector<at::Tensor>& tensors,
                                      const std::vector<std::size_t>& indices) {
  std::vector<at::Tensor> selected;
  selected.reserve(indices.size());
  for (const std::size_t i : indices) selected.push_back(tensors[i]);
  return selected;
}

}  // namespace lockstep::optim
