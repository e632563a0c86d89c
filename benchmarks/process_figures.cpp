// SPDX-License-Identifier: BSD-3-Clause
#include "process_figures.h"

#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

namespace bench {
namespace {

namespace fs = std::filesystem;

std::string folder_of(int pid) {
  return "/proc/" + std::to_string(pid) + "/";
}

// The fields of /proc/PID/stat behind the program's name, which may hold anything.
std::vector<std::string> stat_fields(int pid) {
  std::ifstream file(folder_of(pid) + "stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  return {std::istream_iterator<std::string>(rest), {}};
}

std::optional<int> process_id(const fs::path& path) {
  const std::string name = path.filename();
  int pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return pid;
}

}  // namespace

ProcessFigures figures_of(int pid, bool with_memory) {
  constexpr std::size_t kMinorFaults = 7;  // proc(5) counts from 1 and has two fields before these
  ProcessFigures figures;
  if (const auto fields = stat_fields(pid); fields.size() > kMinorFaults) {
    figures.minor_faults = std::stoull(fields[kMinorFaults]);
  }
  std::error_code error;
  for (fs::directory_iterator at(folder_of(pid) + "fd", error), end; !error && at != end;
       at.increment(error)) {
    ++figures.descriptors;
  }
  if (!with_memory) return figures;
  std::ifstream file(folder_of(pid) + "smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("Private_")) continue;
    figures.private_kib += std::stoull(line.substr(line.find(':') + 1));
  }
  return figures;
}

std::vector<int> descendants() {
  constexpr std::size_t kParent = 1;
  std::map<int, int> parent_of;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto pid = process_id(entry.path());
    if (!pid) continue;
    if (const auto fields = stat_fields(*pid); fields.size() > kParent) {
      parent_of[*pid] = std::stoi(fields[kParent]);
    }
  }
  std::vector<int> found;
  for (const auto& [pid, parent] : parent_of) {
    auto ancestor = parent;
    while (parent_of.contains(ancestor) && ancestor != ::getpid()) ancestor = parent_of[ancestor];
    if (ancestor == ::getpid()) found.push_back(pid);
  }
  return found;
}

}  // namespace bench
