// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>

#include "files/bounded_file.h"
#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// So many bytes are on their way from the disk while others are looked at.
inline constexpr std::uint64_t kReadAhead = std::uint64_t{16} << 20;

/// Throws: `c10::Error` naming the file where it has another size than was written.
void check_size(const files::BoundedFile& file, const FileDigest& expected);

/// Reads the whole file, and compares its digest with that of what was written. `place`: where the
/// piece from an offset on goes, of one MiB at most.
/// Throws: `c10::Error` naming the file where it is another one.
void read_checked(const files::BoundedFile& file, const FileDigest& expected,
                  const std::function<std::byte*(std::uint64_t offset)>& place);

/// The same, and keeps nothing of it.
void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files);

}  // namespace lockstep::training
