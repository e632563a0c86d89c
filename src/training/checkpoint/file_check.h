// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "files/bounded_file.h"
#include "files/digest.h"
#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// So many bytes are on their way from the disk while others are looked at.
inline constexpr std::uint64_t kReadAhead = std::uint64_t{16} << 20;

/// Reads a file from its first byte to its last, and compares it with what was written.
///
/// Thread-safety: none.
class CheckedReader {
 public:
  /// Both outlive it.
  /// Throws: `c10::Error` naming the file where it has another size than was written.
  CheckedReader(const files::BoundedFile& file, const FileDigest& expected);

  /// Fills `target` with the bytes that follow. Nobody has compared them yet.
  /// Throws: `c10::Error` naming the file when it has no more, or cannot be read.
  void read(std::span<std::byte> target);
  /// Reads what is left.
  /// Throws: `c10::Error` naming the file where its bytes are others than were written.
  void finish();

 private:
  /// Reads from the file itself.
  void read_piece(std::span<std::byte> target);
  void fill_buffer();

  const files::BoundedFile& file_;
  const FileDigest& expected_;
  files::Digest digest_;
  std::uint64_t offset_ = 0;       ///< how far the file was read
  std::vector<std::byte> buffer_;  ///< what came with a small piece
  std::span<std::byte> left_;      ///< of the buffer
};

/// Throws: `c10::Error` naming the file where it is another one than was written.
void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files);

}  // namespace lockstep::training
