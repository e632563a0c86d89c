// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "native/posix/file_system.h"
#include "support/crash_disk.h"

namespace lockstep::testing {

/// The machine's, and it notes what each call below a folder does to a `CrashDisk`.
///
/// Thread-safety: any thread; one call at a time is carried out.
class RecordingFileSystem final : public native::FileSystem {
 public:
  /// After a call that has changed something.
  struct Moment {
    CrashDisk disk;
    std::string call;         ///< for messages
    std::int64_t oldest = 0;  ///< what `allow` has said
    std::int64_t newest = 0;
  };

  /// `before`: what is below `root` now. `has_nameless`: whether there are files without a name.
  RecordingFileSystem(std::filesystem::path root, Moment before, bool has_nameless = true)
      : root_(std::move(root)), moments_{std::move(before)}, has_nameless_(has_nameless) {}

  /// From now on, one of these generations must be there after a power cut.
  void allow(std::int64_t oldest, std::int64_t newest) {
    const std::lock_guard lock(mutex_);
    // For a power cut right now as well.
    moments_.push_back({disk(), "allow", oldest, newest});
  }
  /// The disk is full when room is set aside the next time.
  void fill_up() {
    const std::lock_guard lock(mutex_);
    is_full_ = true;
  }
  /// Of a time when nothing is being written.
  [[nodiscard]] const std::vector<Moment>& moments() const { return moments_; }

  int open(const std::string& path, int flags, mode_t mode) override {
    const std::lock_guard lock(mutex_);
    if ((flags & O_TMPFILE) == O_TMPFILE && !has_nameless_) {
      errno = EOPNOTSUPP;
      return -1;
    }
    const auto before = find(path);
    const int file = FileSystem::open(path, flags, mode);
    nodes_.erase(file);
    if (file < 0) return file;
    if ((flags & O_TMPFILE) == O_TMPFILE) {
      change("open " + path, [&](CrashDisk& disk) { nodes_[file] = disk.make(false); });
    } else if (before) {
      nodes_[file] = *before;
    } else if ((flags & O_CREAT) != 0) {
      add(path, false);
      if (const auto made = find(path)) nodes_[file] = *made;
    }
    return file;
  }
  ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
    const std::lock_guard lock(mutex_);
    const auto done = FileSystem::write(file, bytes, offset);
    if (done > 0 && nodes_.contains(file)) {
      const std::string text(reinterpret_cast<const char*>(bytes.data()),
                             static_cast<std::size_t>(done));
      change("write", [&](CrashDisk& disk) { disk.write(nodes_.at(file), offset, text); });
    }
    return done;
  }
  int reserve(int file, std::uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (std::exchange(is_full_, false)) {
      errno = ENOSPC;
      return -1;
    }
    return noting("reserve", FileSystem::reserve(file, bytes), file,
                  [&](CrashDisk& disk, auto node) {
                    if (disk.size(node) < bytes) disk.resize(node, bytes);
                  });
  }
  int resize(int file, std::uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    return noting("resize", FileSystem::resize(file, bytes), file,
                  [&](CrashDisk& disk, auto node) { disk.resize(node, bytes); });
  }
  int sync(int file) override {
    const std::lock_guard lock(mutex_);
    return noting("sync", FileSystem::sync(file), file,
                  [](CrashDisk& disk, auto node) { disk.sync(node); });
  }
  int name(int file, const std::string& path) override {
    const std::lock_guard lock(mutex_);
    return noting("name " + path, FileSystem::name(file, path), file,
                  [&](CrashDisk& disk, auto node) {
                    if (const auto place = place_of(path))
                      disk.name(place->first, place->second, node);
                  });
  }
  int rename(const std::string& from, const std::string& to) override {
    const std::lock_guard lock(mutex_);
    const int result = FileSystem::rename(from, to);
    const auto place = place_of(from);
    if (result == 0 && place) {
      const std::string name = place_of(to).value().second;  // in the same folder
      change("rename " + to,
             [&](CrashDisk& disk) { disk.rename(place->first, place->second, name); });
    }
    return result;
  }
  int remove(const std::string& path) override {
    const std::lock_guard lock(mutex_);
    return take_away(FileSystem::remove(path), path);
  }
  int make_folder(const std::string& path) override {
    const std::lock_guard lock(mutex_);
    const int result = FileSystem::make_folder(path);
    if (result == 0) add(path, true);
    return result;
  }
  int remove_folder(const std::string& path) override {
    const std::lock_guard lock(mutex_);
    return take_away(FileSystem::remove_folder(path), path);
  }

 private:
  using Node = CrashDisk::Node;

  [[nodiscard]] const CrashDisk& disk() const { return moments_.back().disk; }
  template <class Change>
  void change(const std::string& call, const Change& change) {
    Moment next = moments_.back();
    next.call = call;
    change(next.disk);
    moments_.push_back(std::move(next));
  }
  template <class Change>
  int noting(const std::string& call, int result, int file, const Change& what) {
    const auto node = nodes_.find(file);
    if (result == 0 && node != nodes_.end()) {
      change(call, [&](CrashDisk& disk) { what(disk, node->second); });
    }
    return result;
  }

  /// The path below the root; nothing: it is elsewhere.
  [[nodiscard]] std::optional<std::string> inside(const std::string& path) const {
    const std::string whole = std::filesystem::absolute(path).lexically_normal().string();
    const std::string root = root_.string();
    if (whole == root) return "";
    if (!whole.starts_with(root + "/")) return std::nullopt;
    return whole.substr(root.size() + 1);
  }
  [[nodiscard]] std::optional<Node> find(const std::string& path) const {
    const auto below = inside(path);
    return below ? disk().find(*below) : std::nullopt;
  }
  /// The folder, and the name in it.
  [[nodiscard]] std::optional<std::pair<Node, std::string>> place_of(
      const std::string& path) const {
    const auto below = inside(path);
    if (!below || below->empty()) return std::nullopt;
    const auto slash = below->rfind('/');
    const auto folder = disk().find(slash == std::string::npos ? "" : below->substr(0, slash));
    if (!folder) return std::nullopt;
    return std::pair(*folder, slash == std::string::npos ? *below : below->substr(slash + 1));
  }
  void add(const std::string& path, bool is_folder) {
    const auto place = place_of(path);
    if (!place) return;
    change("make " + path,
           [&](CrashDisk& disk) { disk.name(place->first, place->second, disk.make(is_folder)); });
  }
  int take_away(int result, const std::string& path) {
    const auto place = place_of(path);
    if (result == 0 && place) {
      change("remove " + path, [&](CrashDisk& disk) { disk.remove(place->first, place->second); });
    }
    return result;
  }

  std::mutex mutex_;
  std::filesystem::path root_;
  std::vector<Moment> moments_;
  bool has_nameless_;
  bool is_full_ = false;
  std::map<int, Node> nodes_;  // of open files
};

}  // namespace lockstep::testing
