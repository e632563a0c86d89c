// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <cstddef>
#include <unordered_map>
#include <utility>

namespace lockstep::hooks {

/// Keeps the address of a parameter from being used again, not the parameter.
using WeakParameter = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

/// Something for each parameter, wherever the parameter lies in buckets.
///
/// Owns: no parameter, but its address, which no other tensor gets while it is a key here. What
/// belongs to parameters that are gone is dropped before there is twice as much of it.
template <typename T>
class ParameterMap {
 public:
  /// Made with T's default constructor where there is none yet.
  [[nodiscard]] T& operator[](const at::Tensor& parameter) {
    const auto found = entries_.find(parameter.unsafeGetTensorImpl());
    if (found != entries_.end()) return found->second.second;
    if (entries_.size() >= next_sweep_) {
      std::erase_if(entries_, [](const auto& entry) { return entry.second.first.expired(); });
      next_sweep_ = 2 * entries_.size() + 1;
    }
    return entries_
        .emplace(parameter.unsafeGetTensorImpl(),
                 std::pair<WeakParameter, T>(WeakParameter(parameter.getIntrusivePtr()), T()))
        .first->second.second;
  }

  /// Null where there is none.
  [[nodiscard]] const T* find(const at::Tensor& parameter) const {
    const auto found = entries_.find(parameter.unsafeGetTensorImpl());
    return found == entries_.end() ? nullptr : &found->second.second;
  }

  /// Calls `visit(parameter, entry)` for each parameter that still exists, in no order.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const auto& [parameter, entry] : entries_) {
      if (!entry.first.expired()) visit(parameter, entry.second);
    }
  }

 private:
  std::unordered_map<const c10::TensorImpl*, std::pair<WeakParameter, T>> entries_;
  std::size_t next_sweep_ = 1;
};

}  // namespace lockstep::hooks
