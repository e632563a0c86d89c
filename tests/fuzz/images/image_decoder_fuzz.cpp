// SPDX-License-Identifier: BSD-3-Clause
// Whatever the bytes are, decoding gives an image or a c10::Error, and touches no memory that is
// not its own.
#include <c10/util/Exception.h>
#include <lockstep/data/image_decoder.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

using lockstep::data::Image;
using lockstep::data::ImageDecoder;
using lockstep::data::ImageDecoderOptions;

// So that the fuzzer spends its time on bytes, not on pixels.
constexpr std::int64_t kMaxPixels = 1 << 18;

// Sanitizers see what was never written only when somebody looks at it.
void look_at(const Image& image) {
  unsigned sum = 0;
  for (std::int64_t y = 0; y < image.height(); ++y) {
    for (std::int64_t i = 0; i < image.width() * Image::kBytesPerPixel; ++i) sum += image.row(y)[i];
  }
  static volatile unsigned sink;
  sink = sum;
}

void decode(std::span<const std::byte> bytes, bool tolerates_damage) {
  const ImageDecoder decoder(
      bytes, "fuzz",
      ImageDecoderOptions().max_pixels(kMaxPixels).tolerate_damage(tolerates_damage));
  look_at(decoder.decode());
}

// A part that the bytes themselves choose.
void decode_part(std::span<const std::byte> bytes, bool tolerates_damage) {
  const ImageDecoder decoder(
      bytes, "fuzz",
      ImageDecoderOptions().max_pixels(kMaxPixels).tolerate_damage(tolerates_damage));
  const auto choice = static_cast<std::int64_t>(bytes[bytes.size() / 2]) + 1;
  const auto& header = decoder.header();
  lockstep::data::ImageBox part;
  part.height = std::max<std::int64_t>(header.height * choice / 257, 1);
  part.width = std::max<std::int64_t>(header.width * (257 - choice) / 257, 1);
  part.top = (header.height - part.height) * choice / 257;
  part.left = (header.width - part.width) * (choice / 2) / 257;
  look_at(decoder.decode_resized(part, 1 + choice % 30, 1 + choice % 40, choice % 2 == 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  for (const bool tolerates_damage : {false, true}) {
    for (const auto work : {decode, decode_part}) {
      try {
        work(bytes, tolerates_damage);
      } catch (const c10::Error&) {  // what is promised
      }
    }
  }
  return 0;
}
