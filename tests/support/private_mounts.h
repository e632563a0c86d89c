// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

namespace lockstep::testing {

/// From now on, nobody outside sees what this process mounts. For a process of one thread.
/// Returns why the machine does not allow it; empty: it does.
inline std::string become_private() {
  const auto reason = [](const char* call) {
    return std::string(call) + ": " + std::generic_category().message(errno);
  };
  const auto user = ::geteuid();
  const auto group = ::getegid();
  const bool is_root = user == 0;
  if (::unshare(CLONE_NEWNS | (is_root ? 0 : CLONE_NEWUSER)) != 0) return reason("unshare");
  if (!is_root) {
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
  }
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return reason("mount");
  // Whether this process may mount is not known before it does.
  std::string folder = (std::filesystem::temp_directory_path() / "mount_XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return reason("mkdtemp");
  const bool can_mount = ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=64k") == 0;
  const std::string why = can_mount ? "" : reason("mount tmpfs");
  if (can_mount) ::umount2(folder.c_str(), MNT_DETACH);
  std::filesystem::remove(folder);
  return why;
}

/// A disk of so many bytes in a folder that is there; gone at the end.
class SmallDisk {
 public:
  SmallDisk(std::filesystem::path folder, std::uint64_t bytes) : folder_(std::move(folder)) {
    const std::string size = "size=" + std::to_string(bytes);
    if (::mount("tmpfs", folder_.c_str(), "tmpfs", 0, size.c_str()) != 0) {
      throw std::system_error(errno, std::generic_category(), folder_.string());
    }
  }
  ~SmallDisk() { ::umount2(folder_.c_str(), MNT_DETACH); }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  [[nodiscard]] std::uint64_t free_bytes() const {
    return std::filesystem::space(folder_).available;
  }
  /// Leaves so many bytes free: a file takes the others.
  void leave(std::uint64_t bytes) const {
    make_room();
    const auto taken = free_bytes() > bytes ? free_bytes() - bytes : 0;
    std::ofstream(ballast(), std::ios::binary) << std::string(taken, 'x');
  }
  void make_room() const { std::filesystem::remove(ballast()); }
  /// Nothing can be written any more. No file of it is open for writing.
  void make_read_only() const {
    if (::mount(nullptr, folder_.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) !=
        0) {
      throw std::system_error(errno, std::generic_category(), folder_.string());
    }
  }

 private:
  [[nodiscard]] std::filesystem::path ballast() const { return folder_ / "ballast"; }

  std::filesystem::path folder_;
};

}  // namespace lockstep::testing
