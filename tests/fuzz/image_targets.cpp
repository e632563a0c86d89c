// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/image_decoder.h>
#include <zlib.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>

#include "fuzz/fuzz_target.h"

namespace lockstep::fuzz {
namespace {

using data::Image;
using data::ImageDecoder;
using data::ImageDecoderOptions;

// So that the time goes into bytes, not into pixels.
constexpr std::int64_t kMaxPixels = 1 << 18;

// Sanitizers see what was never written only when somebody looks at it.
void look_at(const Image& image) {
  unsigned sum = 0;
  for (std::int64_t y = 0; y < image.height(); ++y) {
    for (std::int64_t i = 0; i < image.width() * Image::kBytesPerPixel; ++i) sum += image.row(y)[i];
  }
  [[maybe_unused]] static volatile unsigned sink;
  sink = sum;
}

void decode(const ImageDecoder& decoder, std::uint8_t /*choice*/) {
  look_at(decoder.decode());
}

// A part that the bytes themselves choose.
void decode_part(const ImageDecoder& decoder, std::uint8_t byte) {
  const std::int64_t choice = byte + 1;
  const auto& header = decoder.header();
  data::ImageBox part;
  part.height = std::max<std::int64_t>(header.height * choice / 257, 1);
  part.width = std::max<std::int64_t>(header.width * (257 - choice) / 257, 1);
  part.top = (header.height - part.height) * choice / 257;
  part.left = (header.width - part.width) * (choice / 2) / 257;
  look_at(decoder.decode_resized(part, 1 + choice % 30, 1 + choice % 40, choice % 2 == 0));
}

// In all ways, whatever the others say; refused when all of them refuse.
void decode_in_all_ways(const Bytes& input) {
  std::exception_ptr refusal;
  bool accepted = false;
  for (const bool tolerates_damage : {false, true}) {
    for (const auto way : {decode, decode_part}) {
      try {
        const ImageDecoder decoder(std::as_bytes(std::span(input)), "fuzz",
                                   ImageDecoderOptions()
                                       .max_pixels(kMaxPixels)
                                       .tolerate_damage(tolerates_damage)
                                       .apply_orientation(true));
        way(decoder, input[input.size() / 2]);
        accepted = true;
      } catch (const c10::Error&) {
        refusal = std::current_exception();
      }
    }
  }
  if (!accepted) std::rethrow_exception(refusal);
}

std::vector<Bytes> fixtures(const std::string& extension) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(LOCKSTEP_IMAGE_FIXTURES)) {
    if (entry.path().extension() == extension) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (files.empty()) throw std::logic_error("no *" + extension + " to begin with");
  return files;
}

std::uint32_t big_endian(const Bytes& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | bytes[at + i];
  return value;
}

// Of each chunk (length, type, content, CRC-32 of type and content) that lies within the bytes.
void fix_png_checksums(Bytes& bytes) {
  constexpr std::size_t kSignature = 8;
  constexpr std::size_t kAround = 12;
  for (std::size_t at = kSignature; at + kAround <= bytes.size();) {
    const std::size_t content = big_endian(bytes, at);
    if (content > bytes.size() - at - kAround) return;
    const auto crc = ::crc32(0, bytes.data() + at + 4, static_cast<unsigned>(content + 4));
    at += kAround + content;
    for (std::size_t i = 0; i < 4; ++i) {
      bytes[at - 1 - i] = static_cast<std::uint8_t>(crc >> (8 * i));
    }
  }
}

// With EXIF data behind the header: an orientation of 6.
Bytes turned(Bytes png) {
  constexpr std::size_t kHeaderEnd = 33;
  const std::string chunk(
      "\0\0\0\x1A"
      "eXIfMM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0####",
      38);
  png.insert(png.begin() + kHeaderEnd, chunk.begin(), chunk.end());
  fix_png_checksums(png);
  return png;
}

std::vector<Bytes> png_seeds() {
  auto seeds = fixtures(".png");
  seeds.push_back(turned(seeds.back()));
  return seeds;
}

}  // namespace

std::vector<FuzzTarget> image_targets() {
  return {{"jpeg", fixtures(".jpg"), decode_in_all_ways, {}},
          {"png", png_seeds(), decode_in_all_ways, fix_png_checksums}};
}

}  // namespace lockstep::fuzz
