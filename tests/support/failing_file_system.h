// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cerrno>

#include "native/posix/file_system.h"

namespace lockstep::testing {

/// The machine's, but one call fails, or does less than it was asked for.
class FailingFileSystem final : public native::FileSystem {
 public:
  /// `call`: the number of the call that fails, from 0. `error`: its `errno`; 0: a read or write
  /// moves one byte only.
  FailingFileSystem(int call, int error) : call_(call), error_(error) {}

  /// How many calls there were.
  [[nodiscard]] int calls() const { return calls_; }
  /// Whether the call that was to fail came.
  [[nodiscard]] bool has_failed() const { return calls_ > call_; }

  int open(const std::string& path, int flags, mode_t mode) override {
    return fails() ? -1 : FileSystem::open(path, flags, mode);
  }
  int examine(int file, struct stat& info) override {
    return fails() ? -1 : FileSystem::examine(file, info);
  }
  ssize_t read(int file, std::span<std::byte> target, std::uint64_t offset) override {
    if (fails()) return -1;
    return FileSystem::read(file, is_short() ? target.first(1) : target, offset);
  }
  ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
    if (fails()) return -1;
    return FileSystem::write(file, is_short() ? bytes.first(1) : bytes, offset);
  }
  int reserve(int file, std::uint64_t bytes) override {
    return fails() ? -1 : FileSystem::reserve(file, bytes);
  }
  int resize(int file, std::uint64_t bytes) override {
    return fails() ? -1 : FileSystem::resize(file, bytes);
  }
  int sync(int file) override { return fails() ? -1 : FileSystem::sync(file); }
  int truncate(int file, std::uint64_t bytes) override {
    return fails() ? -1 : FileSystem::truncate(file, bytes);
  }
  int name(int file, const std::string& path) override {
    return fails() ? -1 : FileSystem::name(file, path);
  }
  int rename(const std::string& from, const std::string& to) override {
    return fails() ? -1 : FileSystem::rename(from, to);
  }
  int remove(const std::string& path) override { return fails() ? -1 : FileSystem::remove(path); }
  int make_folder(const std::string& path) override {
    return fails() ? -1 : FileSystem::make_folder(path);
  }
  int remove_folder(const std::string& path) override {
    return fails() ? -1 : FileSystem::remove_folder(path);
  }

 private:
  bool fails() {
    const bool does = calls_++ == call_ && error_ != 0;
    if (does) errno = error_;
    return does;
  }
  [[nodiscard]] bool is_short() const { return calls_ == call_ + 1 && error_ == 0; }

  int call_;
  int error_;
  int calls_ = 0;
};

}  // namespace lockstep::testing
