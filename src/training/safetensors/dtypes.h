// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep::training {

/// A dtype of the format.
struct SafetensorsDtype {
  std::string_view name;
  int bits = 0;
  /// Nothing: LibTorch has no such type.
  std::optional<c10::ScalarType> type;
  /// Its place in the table. Tensors lie in a file in falling order of it, so that each is aligned.
  int rank = 0;

  /// How many of the format's numbers are one element of LibTorch's type.
  [[nodiscard]] int numbers_per_element() const { return bits < 8 ? 8 / bits : 1; }
};

/// Null: the format knows none of that name, or for that type.
[[nodiscard]] const SafetensorsDtype* find_safetensors_dtype(std::string_view name);
[[nodiscard]] const SafetensorsDtype* find_safetensors_dtype(c10::ScalarType type);

}  // namespace lockstep::training
