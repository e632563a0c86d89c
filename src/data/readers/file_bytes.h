// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lockstep::data {

/// The bytes of one whole file. (`files::BoundedReader` reads front to back and unpacks gzip; an
/// image is small and wanted as it is.)
///
/// Owns: the bytes; the file is closed again.
class FileBytes {
 public:
  /// Throws: `c10::Error` naming the file when it cannot be opened or read, is no ordinary file, or
  /// has more than `max_bytes` bytes.
  FileBytes(const std::string& path, std::int64_t max_bytes);

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_ = 0;
};

}  // namespace lockstep::data
