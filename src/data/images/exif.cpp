// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/exif.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "data/images/png_chunks.h"

namespace lockstep::data {
namespace {

using ExifBytes = std::span<const std::byte>;

constexpr std::string_view kExifStart("Exif\0\0", 6);
constexpr int kUpright = 1;
constexpr int kMostOrientation = 8;
// The data has the format of TIFF.
constexpr std::uint32_t kTiffMark = 42;
constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShortType = 3;
constexpr std::uint32_t kLongType = 4;
constexpr std::size_t kEntryBytes = 12;

bool begins_with(ExifBytes bytes, std::string_view start) {
  return bytes.size() >= start.size() &&
         std::equal(start.begin(), start.end(), bytes.begin(),
                    [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

// Numbers of a TIFF file; 0 beyond its end.
class Tiff {
 public:
  explicit Tiff(ExifBytes bytes) : bytes_(bytes), is_little_(begins_with(bytes, "II")) {}

  [[nodiscard]] bool is_sound() const {
    return (is_little_ || begins_with(bytes_, "MM")) && number(2, 2) == kTiffMark;
  }
  [[nodiscard]] std::uint32_t number(std::size_t at, std::size_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto byte = bytes_[at + (is_little_ ? count - 1 - i : i)];
      value = value << 8 | std::to_integer<std::uint32_t>(byte);
    }
    return value;
  }

 private:
  ExifBytes bytes_;
  bool is_little_;
};

int orientation_of(ExifBytes exif) {
  if (begins_with(exif, kExifStart)) exif = exif.subspan(kExifStart.size());
  const Tiff tiff(exif);
  if (!tiff.is_sound()) return kUpright;
  std::size_t entry = tiff.number(4, 4);
  const auto entries = tiff.number(entry, 2);
  entry += 2;
  // Not more than fit: there are at most 65535 anyway.
  for (std::uint32_t i = 0; i < entries && entry < exif.size(); ++i, entry += kEntryBytes) {
    if (tiff.number(entry, 2) != kOrientationTag) continue;
    const auto type = tiff.number(entry + 2, 2);
    if ((type != kShortType && type != kLongType) || tiff.number(entry + 4, 4) != 1) break;
    const auto value = tiff.number(entry + 8, type == kShortType ? 2 : 4);
    return value >= kUpright && value <= kMostOrientation ? static_cast<int>(value) : kUpright;
  }
  return kUpright;
}

// Restarts, the start of an image and "temporary": nothing belongs to them.
bool has_no_length(std::byte marker) {
  return (marker >= std::byte{0xD0} && marker <= std::byte{0xD8}) || marker == std::byte{1};
}

// What a JPEG file has in front of its first scan.
ExifBytes exif_of_jpeg(ExifBytes file) {
  constexpr auto kFill = std::byte{0xFF};
  constexpr auto kApp1 = std::byte{0xE1};
  constexpr auto kScan = std::byte{0xDA};
  constexpr auto kEnd = std::byte{0xD9};
  std::size_t at = 2;  // behind the start of the image
  while (at + 4 <= file.size()) {
    // libjpeg, too, passes over other bytes and takes any number of 0xFF in front of a marker.
    const auto marker = file[at + 1];
    if (file[at] != kFill || marker == kFill || marker == std::byte{0}) {
      ++at;
      continue;
    }
    if (marker == kScan || marker == kEnd) break;
    if (has_no_length(marker)) {
      at += 2;
      continue;
    }
    const auto length = std::to_integer<std::size_t>(file[at + 2]) << 8 |
                        std::to_integer<std::size_t>(file[at + 3]);
    const auto rest = file.subspan(at + 2);
    if (length < 2 || length > rest.size()) break;
    const auto content = rest.subspan(2, length - 2);
    if (marker == kApp1 && begins_with(content, kExifStart)) return content;
    at += 2 + length;
  }
  return {};
}

ExifBytes exif_of_png(ExifBytes file) {
  PngChunks chunks(file);
  while (const auto chunk = chunks.next()) {
    if (chunk->is("IEND")) break;
    if (chunk->is("eXIf") && chunk->is_intact()) return chunk->content;
  }
  return {};
}

}  // namespace

int exif_orientation(ImageFormat format, std::span<const std::byte> file) noexcept {
  return orientation_of(format == ImageFormat::Jpeg ? exif_of_jpeg(file) : exif_of_png(file));
}

}  // namespace lockstep::data
