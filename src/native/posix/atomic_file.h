// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// A file that appears under its name whole, or not at all: it has no name until `publish`, so that
/// a process that dies leaves nothing. On filesystems without nameless files it has a random name,
/// which the destructor removes.
///
/// Thread-safety: none.
/// Owns: the descriptor, and the file until it is published.
class AtomicFile {
 public:
  enum class Kind {
    Nameless,  ///< if the filesystem can
    Named,     ///< as on a filesystem that cannot
  };

  /// Throws: `std::system_error` naming the file.
  explicit AtomicFile(std::string path, Kind kind = Kind::Nameless);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws: `std::system_error` naming the file, when the disk is full for example.
  void write(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Waits until the bytes are on the disk, then gives the file its name, which replaces an older
  /// file of that name. Nothing can be written afterwards.
  /// Throws: `std::system_error` naming the file; then there is no such file, or the old one.
  void publish();

 private:
  [[nodiscard]] std::string random_name() const;

  std::string path_;
  std::string folder_;
  std::string temporary_;  // empty while the file has no name at all
  FileDescriptor file_;
};

}  // namespace lockstep::native
