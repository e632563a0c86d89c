// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct gzFile_s;

namespace lockstep::files {

/// Reads a file, plain or gzip, front to back, never more than it is asked for, and says precisely
/// what is wrong with it. All bytes that come from outside go through one of these.
///
/// Thread-safety: none.
/// Owns: the open file.
class BoundedReader {
 public:
  /// Throws: `c10::Error` naming the file when it cannot be opened or is no ordinary file.
  explicit BoundedReader(std::string path);

  /// Fills `target`. `what` names the thing that is being read.
  /// Throws: `c10::Error` when the file ends before, or its gzip stream is damaged.
  void read(std::span<std::uint8_t> target, const std::string& what);

  /// Reads `count` bytes into memory that grows piece by piece with what has really been read.
  [[nodiscard]] std::vector<std::uint8_t> read_bytes(std::uint64_t count, const std::string& what);

  /// Throws: `c10::Error` when something follows.
  void expect_end();

  /// Throws: `c10::Error` with the file, `offset`, what was expected and what was found.
  [[noreturn]] void fail(std::uint64_t offset, const std::string& expected,
                         const std::string& found) const;

  /// Bytes read so far, uncompressed.
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }

 private:
  struct Close {
    void operator()(gzFile_s* file) const noexcept;
  };

  // Bytes read, fewer than target.size() at the end of the file only.
  std::size_t read_some(std::span<std::uint8_t> target, const std::string& what);
  [[noreturn]] void fail_short(std::uint64_t start, std::uint64_t count,
                               const std::string& what) const;

  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
  std::uint64_t offset_ = 0;
};

}  // namespace lockstep::files
