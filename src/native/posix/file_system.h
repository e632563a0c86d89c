// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lockstep::native {

/// The system calls by which files are saved and loaded, each as the manual has it: -1 and `errno`
/// where it fails. A test derives from it, to let any of them fail or to record them.
///
/// Thread-safety: any thread.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual int open(const std::string& path, int flags, mode_t mode);
  virtual int examine(int file, struct stat& info);
  virtual ssize_t read(int file, std::span<std::byte> target, std::uint64_t offset);
  /// Has the disk begin to read these bytes, and waits for nothing. Best effort.
  virtual void start_reading(int file, std::uint64_t offset, std::uint64_t bytes);
  virtual ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset);
  /// Makes the file so long, and has the disk set room aside for it.
  virtual int reserve(int file, std::uint64_t bytes);
  /// Has the disk begin to write these bytes, and waits for nothing. Best effort.
  virtual void start_writing(int file, std::uint64_t offset, std::uint64_t bytes);
  /// Makes the file so long.
  virtual int resize(int file, std::uint64_t bytes);
  virtual int sync(int file);
  virtual int truncate(int file, std::uint64_t bytes);
  /// Gives a file that has no name one. Replaces nothing.
  virtual int name(int file, const std::string& path);
  virtual int rename(const std::string& from, const std::string& to);
  virtual int remove(const std::string& path);
  virtual int make_folder(const std::string& path);
  /// An empty one.
  virtual int remove_folder(const std::string& path);

  /// That of this machine. It has no state.
  [[nodiscard]] static FileSystem& of_machine();
};

}  // namespace lockstep::native
