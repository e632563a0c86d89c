// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "files/bounded_view.h"

namespace lockstep::data {

/// An ordinary file in an archive.
struct TarMember {
  std::string name;          ///< as it is written there; relative, without ".."
  std::uint64_t offset = 0;  ///< of its first byte
  std::uint64_t size = 0;    ///< all of it lies within the archive
};

/// Walks over the ordinary files of an uncompressed tar archive: v7, ustar, pax, GNU with long
/// names and large sizes. Folders are passed over; everything else (links, devices, sparse files)
/// is refused, and so are names that lead out of the folder in which an archive would be unpacked.
///
/// Thread-safety: none.
/// Source: POSIX.1-2017, "pax", for ustar and pax; the GNU tar manual, "Basic Tar Format".
class TarReader {
 public:
  /// `archive` must outlive the reader.
  explicit TarReader(const files::BoundedView& archive) : archive_(archive) {}

  /// The next file, or nothing behind the last.
  /// Throws: `c10::Error` with archive, byte, what was expected and what was found.
  [[nodiscard]] std::optional<TarMember> next();

 private:
  struct Extended {  // what a header says about the one behind it
    std::optional<std::string> name;
    std::optional<std::uint64_t> size;
  };

  void check_uncompressed() const;
  [[nodiscard]] bool is_at_end() const;
  [[nodiscard]] std::uint64_t checked_size(std::uint64_t start,
                                           std::span<const std::byte> header) const;
  [[nodiscard]] bool read_extension(char type, std::uint64_t size);
  [[nodiscard]] std::optional<TarMember> read_member(std::uint64_t start, char type,
                                                     const std::string& raw_name,
                                                     std::uint64_t size);
  void expect_only_zeros() const;
  [[nodiscard]] std::span<const std::byte> read_content(std::uint64_t size, const char* what);
  void read_pax(std::uint64_t size, bool is_global);
  void check_name(std::uint64_t header, const std::string& name) const;
  [[nodiscard]] std::uint64_t padded(std::uint64_t size, const std::string& what) const;

  const files::BoundedView& archive_;
  std::uint64_t position_ = 0;
  Extended extended_;
};

}  // namespace lockstep::data
