// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace lockstep::native {
namespace {

namespace fs = std::filesystem;

constexpr auto kUnknown = std::numeric_limits<std::size_t>::max();

std::optional<std::size_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::size_t number = 0;
  if (file >> number) return number;
  return std::nullopt;  // also for "max"
}

// The number behind `key` in a file of lines such as "key 12 kB".
std::optional<std::size_t> number_of(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  std::size_t number = 0;
  std::string rest;
  while (file >> name >> number) {
    if (name == key) return number;
    std::getline(file, rest);
  }
  return std::nullopt;
}

struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* reclaimable;  // key in memory.stat: pages of files that the kernel gives up first
};

std::size_t room_in(const fs::path& group, const GroupFiles& files) {
  const auto limit = number_in(group / files.limit);
  const auto usage = number_in(group / files.usage);
  if (!limit || !usage) return kUnknown;
  const auto cached = number_of(group / "memory.stat", files.reclaimable).value_or(0);
  const auto used = *usage - std::min(cached, *usage);
  return *limit - std::min(used, *limit);
}

// A limit holds for all groups below it. In a container the group's own path may not be there, and
// the container's stands at the root.
std::size_t room_up_from(const fs::path& mount, const std::string& group, const GroupFiles& files) {
  auto room = room_in(mount, files);
  auto place = mount;
  for (const auto& name : fs::path(group).relative_path()) {
    place /= name;
    room = std::min(room, room_in(place, files));
  }
  return room;
}

std::size_t room_in_groups(const fs::path& root) {
  constexpr GroupFiles kFirst{"memory.limit_in_bytes", "memory.usage_in_bytes",
                              "total_inactive_file"};
  constexpr GroupFiles kSecond{"memory.max", "memory.current", "inactive_file"};
  const auto mount = root / "sys/fs/cgroup";
  auto room = kUnknown;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // number:controllers:path
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    const auto path = line.substr(second + 1);
    if (controllers == ",,") room = std::min(room, room_up_from(mount, path, kSecond));
    if (controllers.find(",memory,") != std::string::npos) {
      room = std::min(room, room_up_from(mount / "memory", path, kFirst));
    }
  }
  return room;
}

}  // namespace

std::size_t available_memory(const fs::path& root) {
  const auto kibibytes = number_of(root / "proc/meminfo", "MemAvailable:");
  const auto all = kibibytes ? *kibibytes * 1024 : kUnknown;
  return std::min(all, room_in_groups(root));
}

}  // namespace lockstep::native
