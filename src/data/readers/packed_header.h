// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/data/readers/detail/packed_tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "files/bounded_view.h"

namespace lockstep::data::detail {

/// The first 256 bytes of a file of packed records; `PackedRecords` describes them.
struct PackedHeader {
  static constexpr std::size_t kBytes = 256;
  static constexpr std::size_t kMaxDimensions = 8;

  PackedTensor data;
  PackedTensor target;
  std::uint64_t count = 0;
  std::uint64_t stride = 0;
  std::uint32_t checksum = 0;  // of the records

  [[nodiscard]] std::array<std::byte, kBytes> to_bytes() const;
  /// Throws: `c10::Error` when it is none, is damaged, or does not fit the file's size.
  [[nodiscard]] static PackedHeader read(const files::BoundedView& file);
};

/// Throws: `c10::Error` for a dtype or number of dimensions that cannot be packed.
[[nodiscard]] PackedTensor packed_tensor_of(const at::Tensor& tensor, const char* which);

/// Bytes of a record; nothing where the sample has no bytes, or too many.
[[nodiscard]] std::optional<std::uint64_t> packed_stride(const PackedTensor& data,
                                                         const PackedTensor& target);

}  // namespace lockstep::data::detail
