// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lockstep::native {

/// Whether these bytes of an open file, of which there is at least one, are in the page cache.
/// Nothing where the file system does not tell. Asked for the first and the last byte and one in
/// the middle: what lies between was read with them, as a rule. Formats that are opened at both
/// ends leave these two in the cache alone. What is not there the kernel may begin to read.
[[nodiscard]] std::optional<bool> is_cached(int file, std::uint64_t begin, std::uint64_t end);

/// The same of a file by its name; bytes beyond its end count as cached. False where it is no
/// ordinary file that can be opened.
/// Blocks: as long as opening the file takes.
[[nodiscard]] std::optional<bool> is_cached(const std::string& path, std::uint64_t offset,
                                            std::uint64_t bytes);

}  // namespace lockstep::native
