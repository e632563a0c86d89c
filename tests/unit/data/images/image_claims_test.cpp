// SPDX-License-Identifier: BSD-3-Clause
// As header_claims_test.cpp, of images.
#include <lockstep/data/images/image_decoder.h>

#include "unit/data/images/encoded_image_support.h"
#include "unit/data/images/jpeg_test_support.h"
#include "unit/data/readers/cheap_errors.h"

namespace lockstep::data {
namespace {

class ImageClaims : public HeaderClaims {
 protected:
  // In the strict way and in the one that gives all it can.
  static void expect_cheap_image_error(const EncodedBytes& bytes, const std::string& what) {
    const auto decode = [&](bool tolerates) {
      const auto options = ImageDecoderOptions().tolerate_damage(tolerates).apply_orientation(true);
      static_cast<void>(ImageDecoder(bytes, what, options).decode());
    };
    expect_cheap_error([&] { decode(false); }, what + ": damaged or unsupported");
    expect_cheap_error([&] { decode(true); }, what + ": damaged or unsupported");
  }
};

TEST_F(ImageClaims, OfPngChunksCostNothing) {
  const auto start = encoded_bytes("\x89PNG\r\n\x1A\n");
  EncodedBytes size(13);
  put(size, 0, 1, 4);
  put(size, 4, 1, 4);
  put(size, 8, 8, 1);  // grey of 8 bits
  const auto header = png_chunk("IHDR", size);
  for (const std::uint64_t claim : {0x3FFFFFFFU, 0x7FFFFFFFU}) {
    for (const auto* type : {"IHDR", "PLTE", "IDAT", "IEND", "iTXt", "zTXt", "pCAL", "sCAL", "sPLT",
                             "tEXt", "eXIf", "iCCP", "tRNS", "hIST", "abCd"}) {
      auto claims = joined_bytes({EncodedBytes(4), encoded_bytes(type), encoded_bytes("a\1b")});
      put(claims, 0, claim, 4);
      const auto name = std::string(type) + " of " + std::to_string(claim);
      expect_cheap_image_error(joined_bytes({start, header, claims}), name);
    }
  }
  // A palette of its own kind of pixels.
  put(size, 9, 3, 1);
  expect_cheap_image_error(
      joined_bytes({start, png_chunk("IHDR", size), encoded_bytes("\x7F\xFF\xFF\xFFPLTE...")}),
      "colours");
  // 2^27 pixels that are not there.
  put(size, 9, 2, 1);
  put(size, 0, 8192, 4);
  put(size, 4, 16384, 4);
  for (const std::uint64_t interlacing : {0U, 1U}) {
    put(size, 12, interlacing, 1);
    expect_cheap_image_error(
        joined_bytes({start, png_chunk("IHDR", size), png_chunk("IDAT", encoded_bytes("x\x9C"))}),
        "pixels");
  }
}

TEST_F(ImageClaims, OfJpegSegmentsCostNothing) {
  for (const int marker :
       {0xC0, 0xC2, 0xC4, 0xCC, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE}) {
    auto bytes =
        encoded_bytes(std::string_view("\xFF\xD8\xFF\0\xFF\xFF"
                                       "Exif\0\0II*\0",
                                       16));
    put(bytes, 3, static_cast<std::uint64_t>(marker), 1);
    expect_cheap_image_error(bytes, "segment " + std::to_string(marker));
  }
}

TEST_F(ImageClaims, OfJpegSizesCostNothing) {
  for (const bool is_progressive : {false, true}) {
    JpegKind kind;
    kind.is_progressive = is_progressive;
    auto segments = segments_of(encode_jpeg(kind));
    while (segments.back().marker != 0xDA) segments.pop_back();
    for (auto& segment : segments) {
      if (segment.marker != 0xC0 && segment.marker != 0xC2) continue;
      put(segment.bytes, 5, 8192, 2);
      put(segment.bytes, 7, 16384, 2);
    }
    segments.back().bytes.resize(20);  // of the first scan
    const auto bytes = file_of(segments);
    expect_cheap_error([&] { static_cast<void>(ImageDecoder(bytes, "sizes").decode()); },
                       "sizes: damaged or unsupported JPEG data: ");
    expect_cheap_error(
        [&] {
          static_cast<void>(
              ImageDecoder(bytes, "sizes").decode_resized({0, 0, 8192, 16384}, 8, 8, false));
        },
        "sizes: damaged or unsupported JPEG data: ");
  }
}

}  // namespace
}  // namespace lockstep::data
