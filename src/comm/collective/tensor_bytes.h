// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep {

/// The memory of a dense tensor (no gaps); empty, at no address, for one without elements.
[[nodiscard]] inline std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

/// Bytes as a tensor that owns nothing, for libraries that move tensors.
[[nodiscard]] inline at::Tensor tensor_of(std::span<std::byte> bytes) {
  return at::from_blob(bytes.data(), {static_cast<std::int64_t>(bytes.size())}, at::kByte);
}

/// The same for bytes that are only read.
[[nodiscard]] inline at::Tensor tensor_of(std::span<const std::byte> bytes) {
  return tensor_of(std::span(const_cast<std::byte*>(bytes.data()), bytes.size()));
}

}  // namespace lockstep
