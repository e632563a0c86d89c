// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::data {

/// The parts of files that a sample is read from. A dataset with `files_of(index, parts)` names
/// them there, and a `DataLoader` has them read into the page cache before the sample is asked for
/// (`DataLoaderOptions::read_ahead`).
///
///     void Volumes::files_of(std::size_t index, FileParts& parts) const {
///       parts.add(path_of(index));
///     }
///
/// Only time depends on it: a part that is not there, or not needed, changes no sample.
///
/// Thread-safety: a value.
class FileParts {
 public:
  /// A part of one file.
  struct Part {
    std::string path;          ///< of an ordinary file
    std::uint64_t offset = 0;  ///< of its first byte
    std::uint64_t bytes = 0;   ///< may go beyond the end of the file
  };
  /// As many bytes as the file has.
  static constexpr std::uint64_t kToTheEnd = std::numeric_limits<std::uint64_t>::max();

  /// Adds a part, by default the whole file.
  void add(std::string path, std::uint64_t offset = 0, std::uint64_t bytes = kToTheEnd) {
    parts_.push_back({std::move(path), offset, bytes});
  }
  /// What was added.
  [[nodiscard]] const std::vector<Part>& parts() const noexcept { return parts_; }
  /// Takes all parts away.
  void clear() noexcept { parts_.clear(); }

 private:
  std::vector<Part> parts_;
};

}  // namespace lockstep::data
