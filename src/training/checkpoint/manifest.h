// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::training {

/// A file as it was written.
struct FileDigest {
  std::uint64_t bytes = 0;
  std::string xxh3;  ///< XXH3-128 of its bytes, 32 hexadecimal digits
  friend bool operator==(const FileDigest&, const FileDigest&) = default;
};

/// One line of the manifest, or of what a rank says when it has written its files. Its text has a
/// CRC-32 in front, so that a line that was cut is found.
struct CheckpointRecord {
  std::string run;  ///< the random name of the run that wrote it
  std::int64_t generation = 0;
  std::int64_t step = 0;
  std::int64_t world_size = 1;
  std::optional<double> metric;
  /// Of what a rank says: which tensors it takes the state to have, and who writes them.
  std::string plan;
  /// Why it does not count; empty: it does.
  std::string failure;
  std::map<std::string, FileDigest> files;  ///< by name

  /// One line without its end.
  [[nodiscard]] std::string to_line() const;
  /// Nothing: it is no whole line of these.
  [[nodiscard]] static std::optional<CheckpointRecord> from_line(std::string_view line);
};

/// All whole lines of a text, in their order. What is cut or damaged is passed over.
[[nodiscard]] std::vector<CheckpointRecord> parse_manifest(std::string_view text);

}  // namespace lockstep::training
