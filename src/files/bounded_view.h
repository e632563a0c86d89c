// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "native/posix/mapped_file.h"

namespace lockstep::files {

/// The other half of `BoundedReader`: a plain file whose parts are wanted in any order. It is
/// mapped, and nobody gets a byte that is not there.
///
/// Thread-safety: immutable after construction.
/// Owns: the mapping. Whoever keeps a view of its bytes keeps this object.
class BoundedView {
 public:
  /// Throws: `c10::Error` naming the file when it cannot be opened or is no ordinary file.
  explicit BoundedView(std::string path);

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return file_.bytes().size(); }
  [[nodiscard]] std::int64_t modified_ns() const noexcept { return file_.modified_ns(); }

  /// `what` names what stands there.
  /// Throws: `c10::Error` when the file ends before.
  [[nodiscard]] std::span<const std::byte> bytes(std::uint64_t offset, std::uint64_t count,
                                                 std::string_view what) const {
    if (count > size() || offset > size() - count) fail_short(offset, count, what);
    return file_.bytes().subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(count));
  }

  /// Throws: `c10::Error` with the file, `offset`, what was expected and what was found.
  [[noreturn]] void fail(std::uint64_t offset, std::string_view expected,
                         std::string_view found) const;

 private:
  [[noreturn]] void fail_short(std::uint64_t offset, std::uint64_t count,
                               std::string_view what) const;

  std::string path_;
  native::MappedFile file_;
};

/// A number of 1 to 8 bytes, the lowest first.
[[nodiscard]] inline std::uint64_t little_endian(std::span<const std::byte> bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  }
  return value;
}
void put_little_endian(std::span<std::byte> bytes, std::uint64_t value) noexcept;

/// zlib's CRC-32, continued from that of what came before.
[[nodiscard]] std::uint32_t crc32_of(std::span<const std::byte> bytes,
                                     std::uint32_t before = 0) noexcept;

/// The text for messages: in quotes, on one line, and not too long, whatever is in it.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace lockstep::files
