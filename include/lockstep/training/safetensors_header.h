// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lockstep::training {

/// Where one tensor lies.
///
/// Thread-safety: a value.
struct LOCKSTEP_API SafetensorsTensor {
  /// What it is in LibTorch. `Float4_e2m1fn_x2` holds two numbers a byte; its last dimension counts
  /// bytes, while the file counts numbers.
  c10::ScalarType dtype = c10::ScalarType::Float;
  std::vector<std::int64_t> shape;  ///< of the tensor, in elements of `dtype`
  std::uint64_t offset = 0;         ///< of its first byte, from the start of the file
  std::uint64_t bytes = 0;          ///< how many it takes
};

/// What a file says about itself.
///
/// Thread-safety: a value.
struct LOCKSTEP_API SafetensorsHeader {
  std::map<std::string, SafetensorsTensor> tensors;  ///< by name
  std::map<std::string, std::string> metadata;       ///< texts of programs
  std::uint64_t file_bytes = 0;                      ///< the whole file
};

}  // namespace lockstep::training
