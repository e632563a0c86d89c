// SPDX-License-Identifier: BSD-3-Clause
#include "run_files.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <tuple>

namespace report {
namespace {

namespace fs = std::filesystem;

constexpr int kDepth = 2;  // folders inside the run's
constexpr std::size_t kMostEntries = 100'000;

/// "rank0.jsonl.3" is older than "rank0.jsonl.2".
struct LogName {
  std::string base;
  std::int64_t age = 0;
};

bool parse_log_name(const std::string& name, LogName& result) {
  const auto end = name.find(".jsonl");
  if (end == std::string::npos) return false;
  const auto rest = name.substr(end + 6);
  result = {name.substr(0, end), 0};
  if (rest.empty()) return true;
  const auto* last = rest.data() + rest.size();
  const auto parsed = std::from_chars(rest.data() + 1, last, result.age);
  return rest[0] == '.' && parsed.ec == std::errc() && parsed.ptr == last && result.age > 0;
}

void look_into(const fs::path& folder, int depth, std::size_t& entries, RunFiles& found) {
  std::error_code error;
  std::vector<fs::path> folders;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (++entries > kMostEntries) {
      // Once: the folders around see the same count.
      if (entries == kMostEntries + 1) {
        found.notes.push_back("The run has more than " + std::to_string(kMostEntries) +
                              " files and folders; those behind the first " +
                              std::to_string(kMostEntries) + " were left out.");
      }
      return;
    }
    const auto name = entry->path().filename().string();
    std::error_code status_error;
    const auto status = entry->symlink_status(status_error);
    LogName log;
    if (fs::is_directory(status)) {
      // Those of checkpoints have no logs, but many files.
      if (depth < kDepth && !name.starts_with("gen-")) folders.push_back(entry->path());
    } else if (!fs::is_regular_file(fs::status(entry->path(), status_error))) {
      continue;
    } else if (parse_log_name(name, log)) {
      found.logs.push_back(entry->path());
    } else if (name.ends_with(".prom")) {
      found.prometheus.push_back(entry->path());
    } else if (name == "MANIFEST") {
      found.manifests.push_back(entry->path());
    }
  }
  if (error && depth == 0) {
    throw std::runtime_error("the folder '" + folder.string() +
                             "' cannot be read: " + error.message());
  }
  if (error) {
    found.notes.push_back("The folder '" + folder.string() +
                          "' was left out, since it cannot be read: " + error.message() + ".");
  }
  for (const auto& inner : folders) look_into(inner, depth + 1, entries, found);
}

auto order_of(const fs::path& path) {
  LogName name;
  parse_log_name(path.filename().string(), name);
  return std::tuple(path.parent_path().string(), name.base, -name.age);
}

}  // namespace

std::string log_base(const std::string& name) {
  return name.substr(0, name.find(".jsonl"));
}

RunFiles find_run_files(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) {
    throw std::runtime_error("there is no folder '" + folder.string() + "'");
  }
  if (!fs::is_directory(folder, error)) {
    throw std::runtime_error("'" + folder.string() + "' is no folder; give the folder of a run");
  }
  RunFiles found;
  std::size_t entries = 0;
  look_into(folder, 0, entries, found);
  if (found.is_empty()) {
    throw std::runtime_error("the folder '" + folder.string() +
                             "' and the folders in it have no run log (*.jsonl), no Prometheus "
                             "file (*.prom) and no checkpoints (MANIFEST)");
  }
  std::sort(found.logs.begin(), found.logs.end(),
            [](const auto& a, const auto& b) { return order_of(a) < order_of(b); });
  std::sort(found.prometheus.begin(), found.prometheus.end());
  std::sort(found.manifests.begin(), found.manifests.end());
  return found;
}

std::uint64_t for_each_line(const fs::path& path,
                            const std::function<bool(std::string_view)>& use) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("'" + path.string() +
                             "' cannot be read: " + std::generic_category().message(errno));
  }
  std::uint64_t unused = 0;
  std::string line;
  bool is_too_long = false;
  const auto end_line = [&] {
    if (is_too_long || (!line.empty() && !use(line))) ++unused;
    line.clear();
    is_too_long = false;
  };
  std::vector<char> block(std::size_t{1} << 16);
  while (file) {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    std::string_view text(block.data(), static_cast<std::size_t>(file.gcount()));
    while (!text.empty()) {
      const auto end = text.find('\n');
      const auto part = text.substr(0, end);
      is_too_long = is_too_long || line.size() + part.size() > kLongestLine;
      if (!is_too_long) line += part;
      if (end == std::string_view::npos) break;
      end_line();
      text.remove_prefix(end + 1);
    }
  }
  if (file.bad()) throw std::runtime_error("'" + path.string() + "' cannot be read to its end");
  if (!line.empty() || is_too_long) end_line();
  return unused;
}

}  // namespace report
