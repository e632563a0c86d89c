// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/data/images/image_decoder.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "support/loader_test_support.h"

namespace lockstep::data {

using EncodedBytes = std::vector<std::byte>;

/// Of decoding it under the name "the.file".
inline std::string decoding_error(const EncodedBytes& bytes,
                                  const ImageDecoderOptions& options = {}) {
  return message_of([&] { static_cast<void>(ImageDecoder(bytes, "the.file", options).decode()); });
}

inline Image tolerated(const EncodedBytes& bytes) {
  return ImageDecoder(bytes, "tolerated", ImageDecoderOptions().tolerate_damage(true)).decode();
}

/// Puts a number, its highest byte first.
inline void put(EncodedBytes& bytes, std::size_t at, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i) {
    bytes.at(at + static_cast<std::size_t>(i)) =
        static_cast<std::byte>(value >> 8 * (count - 1 - i));
  }
}

inline EncodedBytes encoded_bytes(std::string_view text) {
  EncodedBytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

inline EncodedBytes joined_bytes(const std::vector<EncodedBytes>& parts) {
  EncodedBytes all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

inline EncodedBytes part_of(const EncodedBytes& bytes, std::size_t begin, std::size_t end) {
  return {bytes.begin() + static_cast<std::ptrdiff_t>(begin),
          bytes.begin() + static_cast<std::ptrdiff_t>(end)};
}

/// Length, type, content and checksum.
inline EncodedBytes png_chunk(std::string_view type, const EncodedBytes& content) {
  auto chunk = joined_bytes({EncodedBytes(4), encoded_bytes(type), content, EncodedBytes(4)});
  put(chunk, 0, content.size(), 4);
  const auto crc = ::crc32(0, reinterpret_cast<const Bytef*>(chunk.data() + 4),
                           static_cast<uInt>(content.size() + 4));
  put(chunk, chunk.size() - 4, crc, 4);
  return chunk;
}

}  // namespace lockstep::data
