// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <cstddef>
#include <map>
#include <set>

namespace lockstep {

/// The tensors that are known to look at a gradient's memory.
///
/// A bucket that wants to keep a gradient where it lies asks whether others may still read or write
/// there. Thread-safety: a value of the asking thread.
class StorageAliases {
 public:
  void add(const at::Tensor& tensor);
  /// Whether no other tensor looks at this storage than those added and what they are views of.
  [[nodiscard]] bool are_all(const c10::Storage& storage) const;

 private:
  std::set<c10::TensorImpl*> tensors_;
  std::map<c10::TensorImpl*, std::size_t> bases_;  // with the references that known views hold
};

}  // namespace lockstep
