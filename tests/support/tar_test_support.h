// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>

#include "support/reader_test_support.h"

namespace lockstep::data {

/// Makes the checksum of a 512-byte header right.
inline void fix_tar_checksum(ByteVector& archive, std::size_t header) {
  std::fill_n(archive.begin() + static_cast<std::ptrdiff_t>(header + 148), 8, std::uint8_t{' '});
  unsigned sum = 0;
  for (std::size_t i = 0; i < 512; ++i) sum += archive[header + i];
  char digits[8];
  std::snprintf(digits, sizeof(digits), "%06o", sum);
  std::copy_n(digits, 7, archive.begin() + static_cast<std::ptrdiff_t>(header + 148));
}

/// A ustar header and content, padded.
inline ByteVector tar_member(const std::string& name, const std::string& content = {},
                             char type = '0') {
  ByteVector bytes(512);
  std::copy_n(name.begin(), std::min<std::size_t>(name.size(), 100), bytes.begin());
  const std::string mode = "0000644";
  std::copy(mode.begin(), mode.end(), bytes.begin() + 100);
  char size[12];
  std::snprintf(size, sizeof(size), "%011zo", content.size());
  std::copy_n(size, 12, bytes.begin() + 124);
  bytes[156] = static_cast<std::uint8_t>(type);
  const std::string magic("ustar\00000", 8);
  std::copy(magic.begin(), magic.end(), bytes.begin() + 257);
  fix_tar_checksum(bytes, 0);
  append(bytes, text_bytes(content));
  bytes.resize((bytes.size() + 511) / 512 * 512);
  return bytes;
}

inline std::string pax_record(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  std::size_t length = rest.size() + 1;
  while (std::to_string(length).size() + rest.size() != length) ++length;
  return std::to_string(length) + rest;
}

inline ByteVector tar_of(const std::vector<ByteVector>& members) {
  ByteVector archive;
  for (const auto& member : members) append(archive, member);
  archive.resize(archive.size() + 1024);
  return archive;
}

}  // namespace lockstep::data
