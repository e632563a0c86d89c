// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/safetensors_header.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "files/bounded_file.h"

namespace lockstep::training {

/// The longest header that the format allows, in bytes.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// In front of the header: its length.
constexpr std::uint64_t kLengthBytes = 8;

/// Reads and checks all that the file says about its tensors.
[[nodiscard]] SafetensorsHeader read_header(const files::BoundedFile& file);

/// A file as it is going to be.
struct PlannedFile {
  std::string header;                                       ///< the bytes in front of the tensors
  std::vector<std::pair<std::string, at::Tensor>> tensors;  ///< in the order of their bytes
  std::uint64_t bytes = 0;                                  ///< of the whole file
};

/// Throws: `c10::Error` for what the format cannot hold.
[[nodiscard]] PlannedFile plan_file(const std::map<std::string, at::Tensor>& tensors,
                                    const std::map<std::string, std::string>& metadata,
                                    std::int64_t alignment);

}  // namespace lockstep::training
