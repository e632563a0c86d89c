// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace report {

/// What a run has left in its folder, and in folders inside.
struct RunFiles {
  std::vector<std::filesystem::path> logs;  ///< rotated ones before those that they came from
  std::vector<std::filesystem::path> prometheus;
  std::vector<std::filesystem::path> manifests;
  std::vector<std::string> notes;  ///< what was left out, and why

  [[nodiscard]] bool is_empty() const {
    return logs.empty() && prometheus.empty() && manifests.empty();
  }
};

/// A log's name without the part that rotation has added: those of one base are one log.
[[nodiscard]] std::string log_base(const std::string& name);

/// Throws: `std::runtime_error` for a folder that is not there, that cannot be read, or that has
/// none of these files. An inner folder that cannot be read, and what is beyond 100,000 entries,
/// are left out with a note.
[[nodiscard]] RunFiles find_run_files(const std::filesystem::path& folder);

/// Lines that are too long are of no program of ours.
constexpr std::size_t kLongestLine = std::size_t{1} << 20;

/// Calls `use` for each line of a file, without its end; `use` returns whether it could use it.
/// Returns the number of those that it could not, and of those that are too long. A last line
/// without an end is a line as well, and mostly one that cannot be used. Throws:
/// `std::runtime_error` for a file that cannot be read.
std::uint64_t for_each_line(const std::filesystem::path& path,
                            const std::function<bool(std::string_view)>& use);

}  // namespace report
