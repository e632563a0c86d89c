// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

/// What the disk gives a program that does nothing else: plain calls, with fsync.
namespace bench {

/// Writes so many bytes to a file that is not there, and waits until they are on the disk.
void write_plain(const std::filesystem::path& path, std::uint64_t bytes);
/// Reads all of them into memory that is kept.
void read_plain(const std::vector<std::filesystem::path>& paths);
/// The files of the newest checkpoint in a folder.
[[nodiscard]] std::vector<std::filesystem::path> newest_files(const std::filesystem::path& folder);
/// So that they are read from the disk the next time.
void drop_from_memory(const std::vector<std::filesystem::path>& paths);

}  // namespace bench
