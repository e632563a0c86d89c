// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstdint>

namespace lockstep {

/// What a gradient's memory depends on. `set_data`, and with it `Module::to`, changes it behind a
/// parameter that stays the same tensor.
class TensorForm {
 public:
  explicit TensorForm(const at::Tensor& tensor)
      : layout_(tensor.layout()), dtype_(tensor.scalar_type()), device_(tensor.device()) {
    if (layout_ != at::kStrided) return;  // some have no sizes to look at, and none can be averaged
    sizes_.assign(tensor.sizes().begin(), tensor.sizes().end());
    strides_.assign(tensor.strides().begin(), tensor.strides().end());
  }

  [[nodiscard]] bool is_of(const at::Tensor& tensor) const {
    if (tensor.layout() != layout_ || tensor.scalar_type() != dtype_ || tensor.device() != device_)
      return false;
    return layout_ != at::kStrided || (tensor.sizes() == c10::IntArrayRef(sizes_) &&
                                       tensor.strides() == c10::IntArrayRef(strides_));
  }

 private:
  at::Layout layout_;
  at::ScalarType dtype_;
  c10::Device device_;
  c10::SmallVector<std::int64_t, 4> sizes_, strides_;
};

}  // namespace lockstep
