// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/png_chunks.h"

#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace lockstep::data {
namespace {

constexpr std::size_t kSignatureBytes = 8;
constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kHeadBytes = 8;  // length and type
constexpr std::size_t kChecksumBytes = 4;
constexpr std::size_t kColourTypeAt = 9;  // in the content of IHDR
constexpr auto kPaletteType = std::byte{3};
constexpr std::size_t kMostContent = 0x7FFFFFFF;  // what a length may say
// Behind the last pixel, where the data's end and checksum take less than 16 bytes, in a chunk each
// at worst.
constexpr std::size_t kMostToEnd = 256;

constexpr std::array<std::byte, kChecksumBytes> kNoChecksum{};

std::uint32_t big_endian_32(std::span<const std::byte> bytes) {
  std::uint32_t value = 0;
  for (const auto byte : bytes.first(4)) value = value << 8 | std::to_integer<std::uint32_t>(byte);
  return value;
}

bool is_letter(std::byte byte) {
  const auto small = std::to_integer<unsigned>(byte) | 0x20U;
  return small >= 'a' && small <= 'z';
}

// Whoever does not know such a chunk cannot make sense of the pixels. A capital letter says so.
bool is_critical(const PngChunk& chunk) {
  return (chunk.type[0] & std::byte{0x20}) == std::byte{0};
}

}  // namespace

bool PngChunk::is(std::string_view letters) const {
  return std::equal(type.begin(), type.end(), letters.begin(), letters.end(),
                    [](std::byte a, char b) { return a == static_cast<std::byte>(b); });
}

PngChunks::PngChunks(std::span<const std::byte> file)
    : left_(file.subspan(std::min(kSignatureBytes, file.size()))) {}

bool PngChunk::is_intact() const {
  if (!is_whole) return false;
  const auto bytes = type.size() + content.size();  // they are neighbours, and the checksum follows
  const auto crc = ::crc32_z(0, reinterpret_cast<const Bytef*>(type.data()), bytes);
  return crc == big_endian_32({type.data() + bytes, kChecksumBytes});
}

std::optional<PngChunk> PngChunks::next() {
  if (left_.size() < kHeadBytes) return std::nullopt;
  const std::size_t claimed = big_endian_32(left_);
  const auto rest = left_.subspan(kHeadBytes);
  PngChunk chunk;
  chunk.type = left_.subspan(kLengthBytes, kHeadBytes - kLengthBytes);
  chunk.content = rest.first(std::min(claimed, rest.size()));
  chunk.is_whole =
      claimed <= kMostContent && rest.size() >= claimed && rest.size() - claimed >= kChecksumBytes;
  left_ = rest.subspan(std::min(claimed + kChecksumBytes, rest.size()));
  return chunk;
}

PngPixelStream::PngPixelStream(std::span<const std::byte> file, bool tolerates_damage)
    : chunks_(file),
      tolerates_damage_(tolerates_damage),
      piece_(file.first(std::min(kSignatureBytes, file.size()))) {}

void PngPixelStream::end_soon() noexcept {
  ends_soon_ = true;
  left_to_end_ = kMostToEnd;
}

bool PngPixelStream::read(std::span<std::byte> target) {
  if (ends_soon_) {
    if (left_to_end_ == 0) {
      std::snprintf(error_, sizeof(error_), "the data goes on behind the last pixel");
      return false;
    }
    left_to_end_ -= std::min(left_to_end_, target.size());
  }
  while (!target.empty()) {
    if (piece_.empty() && !advance()) return false;
    const auto count = std::min(target.size(), piece_.size());
    std::copy_n(piece_.begin(), count, target.begin());
    piece_ = piece_.subspan(count);
    target = target.subspan(count);
  }
  return true;
}

// Goes to the next part, which may be empty.
bool PngPixelStream::advance() {
  switch (part_) {
    case Part::Signature:
    case Part::Checksum:
      if (!find_chunk()) return false;
      part_ = Part::Head;
      piece_ = head_;
      return true;
    case Part::Head:
      if (!check_content()) return false;
      part_ = Part::Content;
      piece_ = chunk_.content;
      return true;
    case Part::Content:
      part_ = Part::Checksum;
      piece_ = kNoChecksum;  // libpng is told not to look at it
      return true;
  }
  return false;
}

bool PngPixelStream::find_chunk() {
  while (const auto chunk = chunks_.next()) {
    const bool is_wanted = chunk->is("IHDR") || chunk->is("IDAT") ||
                           (has_palette_ && !has_pixels_ && chunk->is("PLTE"));
    if (is_wanted) return accept(*chunk);
    // Pixel data is in neighbours, so this is its end.
    if (has_pixels_) return refuse("not enough pixel data before", *chunk);
    if (!std::all_of(chunk->type.begin(), chunk->type.end(), is_letter)) {
      return refuse("a chunk of a damaged type,", *chunk);
    }
    if (chunk->is("IEND")) return refuse("no pixel data before", *chunk);
    if (is_critical(*chunk) && !chunk->is("PLTE")) {
      return refuse("a chunk that must be known and is not,", *chunk);
    }
  }
  std::snprintf(error_, sizeof(error_), "the file ends too early");
  return false;
}

bool PngPixelStream::accept(const PngChunk& chunk) {
  const bool is_pixels = chunk.is("IDAT");
  if (!has_header_ && !chunk.is("IHDR")) return refuse("no header before", chunk);
  if (!is_pixels && !chunk.is_whole) {
    std::snprintf(error_, sizeof(error_), "the file ends too early");
    return false;
  }
  if (chunk.is("IHDR")) {
    has_header_ = true;
    has_palette_ =
        chunk.content.size() > kColourTypeAt && chunk.content[kColourTypeAt] == kPaletteType;
  }
  has_pixels_ = has_pixels_ || is_pixels;
  chunk_ = chunk;
  chunk_.content = chunk.content.first(std::min(chunk.content.size(), kMostContent));
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    head_[i] = static_cast<std::byte>(chunk_.content.size() >> 8 * (kLengthBytes - 1 - i));
  }
  std::copy(chunk.type.begin(), chunk.type.end(), head_.begin() + kLengthBytes);
  return true;
}

// When somebody wants the content: who reads a header gets to where the pixels begin, and not
// further. A wrong checksum says that pixels are wrong. Where the file ends before there is one,
// what the pixel data itself says of its end must do. Nobody guesses at a header.
bool PngPixelStream::check_content() {
  const bool matters = chunk_.is_whole && (!tolerates_damage_ || chunk_.is("IHDR"));
  return !matters || chunk_.is_intact() || refuse("a wrong checksum of", chunk_);
}

bool PngPixelStream::refuse(const char* what, const PngChunk& chunk) {
  char type[5] = "";
  for (std::size_t i = 0; i < chunk.type.size(); ++i) {
    type[i] = is_letter(chunk.type[i]) ? static_cast<char>(chunk.type[i]) : '?';
  }
  std::snprintf(error_, sizeof(error_), "%s %s", what, type);
  return false;
}

}  // namespace lockstep::data
