// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// An ordinary file as memory, read-only as a rule. Processes that map the same file share its
/// pages.
///
/// A process that reads behind the end of a file that was made shorter meanwhile gets SIGBUS.
/// Replacing the file by another of the same name does no harm.
///
/// Thread-safety: immutable after construction.
/// Owns: the mapping; no descriptor is kept.
class MappedFile {
 public:
  enum class Access {
    ReadOnly,
    CopiedOnWrite,  ///< who writes gets a page of its own; the file stays as it is
  };

  /// Throws: `std::system_error` naming the file when it cannot be opened or mapped, or is no
  /// ordinary file.
  explicit MappedFile(const std::string& path, Access access = Access::ReadOnly);
  /// Of a file that is open already. `path` is for messages.
  MappedFile(const FileDescriptor& file, const std::string& path, Access access);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  /// For `CopiedOnWrite`.
  [[nodiscard]] std::span<std::byte> writable_bytes() const noexcept { return {data_, size_}; }
  /// When its content was last changed, in nanoseconds since 1970.
  [[nodiscard]] std::int64_t modified_ns() const noexcept { return modified_ns_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::int64_t modified_ns_ = 0;
};

}  // namespace lockstep::native
