// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"

namespace lockstep::native {

/// A file that appears under its name whole, or not at all: it has no name until `publish`, so that
/// a process that dies before leaves nothing. In `publish`, and on filesystems without nameless
/// files always, it has a random name that ends in `.tmp`, which the destructor removes.
///
/// Thread-safety: none.
/// Owns: the descriptor, and the file until it is published.
class AtomicFile {
 public:
  /// What the file is to survive: messages among processes that run need no disk.
  enum class Survives { PowerCut, Process };
  enum class Kind {
    Nameless,  ///< if the filesystem can
    Named,     ///< as on a filesystem that cannot
  };

  /// Throws: `std::system_error` naming the file.
  explicit AtomicFile(std::string path, Kind kind = Kind::Nameless,
                      FileSystem& files = FileSystem::of_machine());
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Sets so many bytes of the disk aside, so that a full disk is found before the first of them is
  /// written. Comes before the writes; all of these bytes must be written.
  /// Throws: `std::system_error` naming the file.
  void reserve(std::uint64_t bytes);

  /// Throws: `std::system_error` naming the file, when the disk is full for example.
  void write(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Waits until the bytes so far are on the disk, so that `publish` has less to wait for.
  /// Throws: `std::system_error` naming the file.
  void sync();

  /// Waits until the bytes are on the disk, if they are to survive a power cut, then gives the file
  /// its name, which replaces an older file of that name. Nothing can be written afterwards.
  /// Throws: `std::system_error` naming the file; then there is no such file, or the old one,
  /// unless the text says that only its name may not survive a power cut.
  void publish(Survives what = Survives::PowerCut);

 private:
  [[nodiscard]] std::string random_name() const;

  FileSystem& files_;
  std::string path_;
  std::string folder_;
  std::string temporary_;  // empty while the file has no name at all
  FileDescriptor file_;
};

/// Writes a whole file.
/// Throws: as `AtomicFile`.
void write_atomically(const std::string& path, std::string_view text,
                      FileSystem& files = FileSystem::of_machine(),
                      AtomicFile::Survives what = AtomicFile::Survives::PowerCut);

/// `AtomicFile::reserve` of another file.
void reserve_all(FileSystem& files, const FileDescriptor& file, std::uint64_t bytes,
                 const std::string& path);

/// Writes all of `bytes`, however many calls that takes. `path` is for messages.
/// Throws: `std::system_error` naming the file, when the disk is full for example.
void write_all(FileSystem& files, const FileDescriptor& file, std::uint64_t offset,
               std::span<const std::byte> bytes, const std::string& path);

/// Waits until the names in a folder are on the disk, where the filesystem can promise it.
/// Throws: `std::system_error` naming the folder.
void sync_folder(const std::string& path, FileSystem& files = FileSystem::of_machine());

/// Removes a file whose absence must survive a power cut too. Not there: nothing happens.
/// Throws: `std::system_error` naming the file.
void remove_durably(const std::string& path, FileSystem& files = FileSystem::of_machine());

}  // namespace lockstep::native
