// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/file_system.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

namespace lockstep::native {

int FileSystem::open(const std::string& path, int flags, mode_t mode) {
  return ::open(path.c_str(), flags, mode);
}

int FileSystem::examine(int file, struct stat& info) {
  return ::fstat(file, &info);
}

ssize_t FileSystem::read(int file, std::span<std::byte> target, std::uint64_t offset) {
  return ::pread(file, target.data(), target.size(), static_cast<off_t>(offset));
}

void FileSystem::start_reading(int file, std::uint64_t offset, std::uint64_t bytes) {
  static_cast<void>(::posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                                    POSIX_FADV_WILLNEED));
}

ssize_t FileSystem::write(int file, std::span<const std::byte> bytes, std::uint64_t offset) {
  return ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
}

int FileSystem::reserve(int file, std::uint64_t bytes) {
  return ::fallocate(file, 0, 0, static_cast<off_t>(bytes));
}

void FileSystem::start_writing(int file, std::uint64_t offset, std::uint64_t bytes) {
  static_cast<void>(::sync_file_range(file, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                                      SYNC_FILE_RANGE_WRITE));
}

int FileSystem::resize(int file, std::uint64_t bytes) {
  return ::ftruncate(file, static_cast<off_t>(bytes));
}

int FileSystem::sync(int file) {
  return ::fsync(file);
}

int FileSystem::truncate(int file, std::uint64_t bytes) {
  return ::ftruncate(file, static_cast<off_t>(bytes));
}

int FileSystem::name(int file, const std::string& path) {
  const auto self = "/proc/self/fd/" + std::to_string(file);
  return ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW);
}

int FileSystem::rename(const std::string& from, const std::string& to) {
  return ::rename(from.c_str(), to.c_str());
}

int FileSystem::remove(const std::string& path) {
  return ::unlink(path.c_str());
}

int FileSystem::make_folder(const std::string& path) {
  return ::mkdir(path.c_str(), 0777);
}

int FileSystem::remove_folder(const std::string& path) {
  return ::rmdir(path.c_str());
}

FileSystem& FileSystem::of_machine() {
  // Never destroyed: threads may still write when the process ends.
  static auto* machine = new FileSystem;
  return *machine;
}

}  // namespace lockstep::native
