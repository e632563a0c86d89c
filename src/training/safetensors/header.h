// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/safetensors_header.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
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

/// Throws. `offset`: of the file's byte where something else was expected.
using HeaderFail = std::function<void(std::uint64_t offset, const std::string& expected,
                                      const std::string& found)>;

/// Returns the length of a header, which the first bytes of a file say. The whole file has
/// `file_bytes`, `kLengthBytes` or more.
[[nodiscard]] std::uint64_t header_length(std::span<const std::byte, kLengthBytes> length,
                                          std::uint64_t file_bytes, const HeaderFail& fail);

/// Checks the text of a header. The whole file has `file_bytes`, at least as many as are in front
/// of the data.
[[nodiscard]] SafetensorsHeader check_header(std::string_view text, std::uint64_t file_bytes,
                                             const HeaderFail& fail);

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
