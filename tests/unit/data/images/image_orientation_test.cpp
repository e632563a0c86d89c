// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/image_orientation.h"

#include <lockstep/data/images/image_decoder.h>
#include <lockstep/data/images/image_folder.h>

#include <algorithm>

#include "unit/data/images/encoded_image_support.h"
#include "unit/data/images/image_test_support.h"
#include "unit/data/images/jpeg_test_support.h"

namespace lockstep::data {
namespace {

const auto kUprightOption = ImageDecoderOptions().apply_orientation(true);

Image upright_image(const EncodedBytes& bytes) {
  return ImageDecoder(bytes, "turned", kUprightOption).decode();
}

// Numbers as in EXIF, of either order.
EncodedBytes number(std::uint64_t value, int bytes, bool is_little) {
  EncodedBytes result(static_cast<std::size_t>(bytes));
  put(result, 0, value, bytes);
  if (is_little) std::reverse(result.begin(), result.end());
  return result;
}

struct ExifKind {
  std::uint64_t orientation = 6;
  bool is_little = false;
  std::uint64_t type = 3;
  std::uint64_t count = 1;
  std::uint64_t tag = 0x0112;
  std::uint64_t mark = 42;
  std::uint64_t at = 8;
  std::uint64_t entries = 2;
};

// One entry before the orientation's.
EncodedBytes exif(const ExifKind& kind) {
  const auto of = [&](std::uint64_t value, int bytes) {
    return number(value, bytes, kind.is_little);
  };
  return joined_bytes({encoded_bytes(kind.is_little ? "II" : "MM"), of(kind.mark, 2),
                       of(kind.at, 4), of(kind.entries, 2),  //
                       of(0x010F, 2), of(2, 2), of(4, 4), encoded_bytes("abc."), of(kind.tag, 2),
                       of(kind.type, 2), of(kind.count, 4),
                       of(kind.orientation, kind.type == 3 ? 2 : 4), EncodedBytes(2)});
}

EncodedBytes app1(const EncodedBytes& content) {
  return joined_bytes({encoded_bytes("\xFF\xE1"), number(content.size() + 2, 2, false), content});
}

// In front of all other segments.
EncodedBytes with_segments(const EncodedBytes& jpeg, const std::vector<EncodedBytes>& segments) {
  return joined_bytes({part_of(jpeg, 0, 2), joined_bytes(segments), part_of(jpeg, 2, jpeg.size())});
}

EncodedBytes with_exif(const EncodedBytes& jpeg, const EncodedBytes& data) {
  static const auto start = encoded_bytes(std::string_view("Exif\0\0", 6));
  return with_segments(jpeg, {app1(joined_bytes({start, data}))});
}

// Behind IHDR, or at the end.
EncodedBytes with_chunk(const EncodedBytes& png, const EncodedBytes& chunk, bool is_in_front) {
  const auto at = is_in_front ? 33 : png.size() - 12;
  return joined_bytes({part_of(png, 0, at), chunk, part_of(png, at, png.size())});
}

EncodedBytes stored_image(const std::string& name, int orientation) {
  const auto bytes = bytes_of(fixture(name));
  ExifKind kind;
  kind.orientation = static_cast<std::uint64_t>(orientation);
  return name.ends_with(".png") ? with_chunk(bytes, png_chunk("eXIf", exif(kind)), true)
                                : with_exif(bytes, exif(kind));
}

TEST(ImageOrientation, EqualsTorchvisionsAndPillowsForAllEight) {
  int seen = 0;
  for (const auto& each : cases("upright")) {
    const auto bytes = stored_image(each.word(1), static_cast<int>(each.number(2)));
    const auto expected = expected_image(each, each.number(3), each.number(4));
    const ImageDecoder decoder(bytes, "turned", kUprightOption);
    EXPECT_EQ(decoder.header().height, expected.height()) << each.text();
    EXPECT_EQ(decoder.header().width, expected.width()) << each.text();
    EXPECT_EQ(largest_difference(decoder.decode(), expected), 0) << each.text();
    EXPECT_EQ(largest_difference(ImageDecoder(bytes, "left alone").decode(), decoded(each.word(1))),
              0);
    ++seen;
  }
  EXPECT_EQ(seen, 16);
}

TEST(ImageOrientation, PartsAreThoseOfTheUprightImage) {
  std::uint32_t state = 7;
  const auto below = [&](std::int64_t limit) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int64_t>(state >> 8) % limit;
  };
  for (const auto* name : {"rgb_420.jpg", "progressive.jpg", "grey.jpg", "rgb.png"}) {
    for (int orientation = 1; orientation <= 8; ++orientation) {
      const auto bytes = stored_image(name, orientation);
      const ImageDecoder decoder(bytes, name, kUprightOption);
      const auto whole = decoder.decode();
      for (int i = 0; i < 12; ++i) {
        const auto height = 1 + below(whole.height());
        const auto width = 1 + below(whole.width());
        const ImageBox part{below(whole.height() - height + 1), below(whole.width() - width + 1),
                            height, width};
        const auto cropped = crop(whole, part);
        EXPECT_EQ(largest_difference(decoder.decode_resized(part, height, width, false), cropped),
                  0)
            << name << orientation;
        EXPECT_EQ(
            largest_difference(decoder.decode_resized(part, 5, 7, false), resize(cropped, 5, 7)), 0)
            << name << orientation;
      }
    }
  }
}

// Scaled decoding of a part knows what is upright: it is that of the stored part, turned.
TEST(ImageOrientation, ScaledPartsAreTurnedToo) {
  const auto plain = bytes_of(fixture("rgb_420.jpg"));
  const ImageDecoder stored(plain, "stored");
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const auto bytes = stored_image("rgb_420.jpg", orientation);
    const ImageDecoder decoder(bytes, "turned", kUprightOption);
    const ImageOrientation way(orientation);
    const ImageBox part = way.swaps_sides() ? ImageBox{4, 6, 48, 32} : ImageBox{6, 4, 32, 48};
    const auto found = decoder.decode_resized(part, 8, 8, true);
    const auto expected = way.upright(stored.decode_resized(way.stored(part, 45, 61), 8, 8, true));
    EXPECT_LE(largest_difference(found, expected), 1) << orientation;
    EXPECT_GT(largest_difference(found, decoder.decode_resized(part, 8, 8, false)), 0)
        << orientation << ": was not scaled";
  }
}

TEST(ImageOrientation, IsFoundWhereverWritersPutIt) {
  const auto jpeg = bytes_of(fixture("rgb_444.jpg"));
  const auto png = bytes_of(fixture("rgb.png"));
  const auto is_turned = [](const EncodedBytes& bytes) {
    const ImageDecoder decoder(bytes, "found", kUprightOption);
    return decoder.header().height > decoder.header().width;
  };
  ASSERT_FALSE(is_turned(jpeg));
  ASSERT_FALSE(is_turned(png));
  const auto start = encoded_bytes(std::string_view("Exif\0\0", 6));
  for (const bool is_little : {false, true}) {
    for (const std::uint64_t type : {3U, 4U}) {
      ExifKind kind;
      kind.is_little = is_little;
      kind.type = type;
      const auto data = exif(kind);
      EXPECT_TRUE(is_turned(with_exif(jpeg, data)));
      EXPECT_TRUE(is_turned(with_chunk(png, png_chunk("eXIf", data), true)));
      EXPECT_TRUE(is_turned(with_chunk(png, png_chunk("eXIf", data), false)));
      EXPECT_TRUE(is_turned(with_chunk(png, png_chunk("eXIf", joined_bytes({start, data})), true)));
      // Behind another APP1, such as XMP; bytes and 0xFF between segments.
      EXPECT_TRUE(is_turned(
          with_segments(jpeg, {app1(encoded_bytes("http://ns.adobe.com/xap/1.0/")),
                               encoded_bytes("\xFF\xFF"), app1(joined_bytes({start, data}))})));
    }
  }
}

TEST(ImageOrientation, DamagedExifDoesNoHarm) {
  const auto jpeg = bytes_of(fixture("rgb_444.jpg"));
  const auto png = bytes_of(fixture("rgb.png"));
  const auto expect_unturned = [&](const EncodedBytes& data) {
    EXPECT_EQ(largest_difference(upright_image(with_exif(jpeg, data)), decoded("rgb_444.jpg")), 0);
    for (const bool is_in_front : {false, true}) {
      const auto file = with_chunk(png, png_chunk("eXIf", data), is_in_front);
      EXPECT_EQ(largest_difference(upright_image(file), decoded("rgb.png")), 0);
    }
  };
  const auto whole = exif({});
  for (std::size_t size = 0; size < whole.size() - 2; ++size) {
    expect_unturned(part_of(whole, 0, size));
  }
  for (const std::uint64_t orientation : {0U, 9U, 0xFFFFU}) {
    ExifKind kind;
    kind.orientation = orientation;
    expect_unturned(exif(kind));
  }
  for (const std::uint64_t at :
       {0ULL, 9ULL, 1000ULL, 0x7FFFFFFFULL, 0xFFFFFFFEULL, 0xFFFFFFFFULL}) {
    ExifKind kind;
    kind.at = at;
    expect_unturned(exif(kind));
  }
  ExifKind kind;
  kind.mark = 43;
  expect_unturned(exif(kind));
  kind = {};
  kind.type = 2;
  expect_unturned(exif(kind));
  kind = {};
  kind.count = 2;
  expect_unturned(exif(kind));
  kind = {};
  kind.tag = 0x0113;
  kind.entries = 0xFFFF;
  expect_unturned(exif(kind));
  // A chunk whose checksum is wrong or that is not there, a segment beyond the end.
  auto chunk = png_chunk("eXIf", whole);
  chunk.back() ^= std::byte{1};
  EXPECT_EQ(largest_difference(upright_image(with_chunk(png, chunk, true)), decoded("rgb.png")), 0);
  const auto claim =
      encoded_bytes(std::string("\x3F\xFF\xFF\xFF"
                                "eXIf",
                                8));
  EXPECT_EQ(
      largest_difference(upright_image(joined_bytes({part_of(png, 0, png.size() - 12), claim})),
                         decoded("rgb.png")),
      0);
  // Every byte of the data wrong in turn: an image comes out, turned or not.
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const unsigned value : {0x00U, 0x7FU, 0xFFU}) {
      auto bad = whole;
      bad[i] = static_cast<std::byte>(value);
      EXPECT_EQ(upright_image(with_exif(jpeg, bad)).pixels(), decoded("rgb_444.jpg").pixels());
    }
  }
}

TEST(ImageOrientation, FoldersGiveUprightSamples) {
  std::string made = (std::filesystem::temp_directory_path() / "orientation-XXXXXX").string();
  ASSERT_NE(::mkdtemp(made.data()), nullptr);
  std::filesystem::create_directories(std::filesystem::path(made) / "cat");
  const auto bytes = stored_image("rgb_420.jpg", 6);
  std::ofstream(made + "/cat/1.jpg", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  const ImagePipeline pipeline(
      RandomResizedCrop(12, RandomResizedCropOptions().scaled_decode(false)));
  const ImageFolder folder(made, pipeline, ImageFolderOptions().decoder(kUprightOption));
  SampleRandom random(1, 0, 0);
  SampleRandom same(1, 0, 0);
  EXPECT_TRUE(torch::equal(folder.get(0, random).data, pipeline(upright_image(bytes), same)));
  EXPECT_EQ(ImageFolder(made, {}, ImageFolderOptions().decoder(kUprightOption)).get(0).data.sizes(),
            (std::vector<std::int64_t>{3, 61, 45}));
  EXPECT_EQ(ImageFolder(made).get(0).data.sizes(), (std::vector<std::int64_t>{3, 45, 61}));
  std::filesystem::remove_all(made);
}

}  // namespace
}  // namespace lockstep::data
