// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"

namespace lockstep::files {

/// Beside `BoundedReader` and `BoundedView`: a plain file whose parts are read into memory of the
/// caller, in any order. Nobody gets a byte that is not there, and a file that another process
/// makes shorter meanwhile is an error, where one that is mapped ends the process.
///
/// Thread-safety: immutable after construction.
/// Owns: the open file.
class BoundedFile {
 public:
  /// Throws: `c10::Error` naming the file when it cannot be opened or is no ordinary file.
  explicit BoundedFile(std::string path,
                       native::FileSystem& files = native::FileSystem::of_machine());

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// When it was opened.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  [[nodiscard]] const native::FileDescriptor& descriptor() const noexcept { return file_; }

  /// Fills `target`. `what` names what stands there.
  /// Throws: `c10::Error` when the file ends before, or cannot be read.
  void read(std::uint64_t offset, std::span<std::byte> target, std::string_view what) const;

  /// Has the disk begin to read these bytes, as far as there are so many.
  void prefetch(std::uint64_t offset, std::uint64_t count) const;

  /// `read` into a text of `count` bytes.
  [[nodiscard]] std::string text(std::uint64_t offset, std::uint64_t count,
                                 std::string_view what) const;

  /// Throws: `c10::Error` with the file, `offset`, what was expected and what was found.
  [[noreturn]] void fail(std::uint64_t offset, std::string_view expected,
                         std::string_view found) const;

 private:
  native::FileSystem& files_;
  std::string path_;
  native::FileDescriptor file_;
  std::uint64_t size_ = 0;
};

}  // namespace lockstep::files
