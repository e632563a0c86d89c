// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace lockstep::data::detail {

/// dtype and shape of one half of a sample.
struct PackedTensor {
  at::ScalarType type = at::kByte;
  std::vector<std::int64_t> sizes;
  std::uint64_t bytes = 0;
  friend bool operator==(const PackedTensor&, const PackedTensor&) = default;
};

}  // namespace lockstep::data::detail
