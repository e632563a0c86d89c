// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"

namespace lockstep::native {

/// A new file under its own name, in a folder that nobody reads before all of its files are on the
/// disk. `AtomicFile` is for all other folders: this one stays, in part, where the program ends.
///
/// Thread-safety: none.
/// Owns: the descriptor.
class NewFile {
 public:
  /// Throws: `std::system_error` naming the file, also when there is one of that name.
  explicit NewFile(std::string path, FileSystem& files = FileSystem::of_machine());

  /// As `AtomicFile::reserve`.
  void reserve(std::uint64_t bytes);
  /// The disk begins to write these bytes while the program prepares the next ones.
  /// Throws: `std::system_error` naming the file, when the disk is full for example.
  void write(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Waits until the bytes are on the disk. The name is another matter: see `sync_folder`.
  /// Throws: `std::system_error` naming the file, which must not be used then: a second call would
  /// succeed although bytes are lost.
  void sync();

 private:
  FileSystem* files_;
  std::string path_;
  FileDescriptor file_;
};

}  // namespace lockstep::native
