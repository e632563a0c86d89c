// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/images/image_decoder.h>
#include <malloc.h>
#include <zlib.h>

#include <string_view>

#include "data/images/jpeg_decoder.h"
#include "unit/data/images/encoded_image_support.h"
#include "unit/data/images/image_test_support.h"
#include "unit/data/images/jpeg_test_support.h"

namespace lockstep::data {
namespace {

using Bytes = EncodedBytes;

// Where the frame header of a JPEG file says the height, then the width.
std::size_t jpeg_size_at(const Bytes& bytes) {
  for (std::size_t i = 2; i + 9 < bytes.size();) {
    const auto marker = static_cast<int>(bytes[i + 1]);
    if (marker >= 0xC0 && marker <= 0xC2) return i + 5;
    i += 2 + (static_cast<std::size_t>(bytes[i + 2]) << 8 | static_cast<std::size_t>(bytes[i + 3]));
  }
  ADD_FAILURE() << "no frame header";
  return 0;
}

Bytes with_jpeg_size(Bytes bytes, std::uint64_t height, std::uint64_t width) {
  const auto at = jpeg_size_at(bytes);
  put(bytes, at, height, 2);
  put(bytes, at + 2, width, 2);
  return bytes;
}

Bytes with_png_size(Bytes bytes, std::uint64_t height, std::uint64_t width) {
  put(bytes, 16, width, 4);
  put(bytes, 20, height, 4);
  put(bytes, 29, ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data() + 12), 17), 4);
  return bytes;
}

TEST(ImageDecoder, GivesPillowsPixels) {
  for (const auto& each : cases("decode")) {
    const auto expected = expected_image(each, each.number(2), each.number(3));
    EXPECT_EQ(largest_difference(decoded(each.word(1)), expected), 0) << each.text();
  }
}

// `rows` as PNG has them, each with a byte for its filter in front.
Bytes grey_png(std::uint64_t height, std::uint64_t width, std::uint64_t bits,
               const std::vector<std::uint8_t>& rows) {
  const auto template_file = bytes_of(fixture("grey_2.png"));
  Bytes file(template_file.begin(), template_file.begin() + 33);
  put(file, 24, bits, 1);
  file = with_png_size(std::move(file), height, width);
  std::vector<std::uint8_t> packed(::compressBound(rows.size()));
  uLongf size = packed.size();
  EXPECT_EQ(::compress(packed.data(), &size, rows.data(), rows.size()), Z_OK);
  Bytes content(size);
  std::memcpy(content.data(), packed.data(), size);
  return joined_bytes({file, png_chunk("IDAT", content), png_chunk("IEND", {})});
}

TEST(ImageDecoder, KeepsTheUpperByteOf16BitsOfGrey) {
  // Grey of 16 bits, 0x1234 and 0xFEDC; Pillow would give 255 for both.
  const auto file = grey_png(1, 2, 16, {0, 0x12, 0x34, 0xFE, 0xDC});
  const auto image = ImageDecoder(file, "grey16").decode();
  EXPECT_EQ(image.row(0)[0], 0x12);
  EXPECT_EQ(image.row(0)[6], 0xFE);
}

TEST(ImageDecoder, TakesSidesUpTo65535Pixels) {
  constexpr std::int64_t kSide = 65535;
  std::vector<std::uint8_t> column;
  std::vector<std::uint8_t> line{0};
  for (std::int64_t i = 0; i < kSide + 1; ++i) {
    const auto value = static_cast<std::uint8_t>(i * 255 / kSide);
    column.insert(column.end(), {0, value});
    line.push_back(value);
  }
  const auto first = [](std::vector<std::uint8_t> bytes, std::size_t count) {
    bytes.resize(count);
    return bytes;
  };
  const auto tall = grey_png(kSide, 1, 8, first(column, 2 * kSide));
  const auto wide = grey_png(1, kSide, 8, first(line, 1 + kSide));
  const auto high = ImageDecoder(tall, "tall").decode_resized({0, 0, kSide, 1}, 3, 1, true);
  const auto low = ImageDecoder(wide, "wide").decode_resized({0, 0, 1, kSide}, 1, 3, true);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(high.row(i)[0], 43 + 85 * i, 16) << i;
    EXPECT_NEAR(low.row(0)[4 * i], high.row(i)[0], 1) << i;
  }
  for (const auto& [file, size] : {std::pair{grey_png(kSide + 1, 1, 8, column), "65536 x 1"},
                                   std::pair{grey_png(1, kSide + 1, 8, line), "1 x 65536"}}) {
    const auto expected = std::string("the.file: the header says ") + size +
                          " pixels (height x width); a side may have 65535 at most";
    EXPECT_NE(decoding_error(file).find(expected), std::string::npos) << decoding_error(file);
  }
}

TEST(ImageDecoder, TellsTheHeaderWithoutDecoding) {
  auto bytes = bytes_of(fixture("rgb_420.jpg"));
  bytes.resize(bytes.size() / 2);
  const ImageDecoder jpeg(bytes, "half");
  EXPECT_EQ(jpeg.header().format, ImageFormat::Jpeg);
  EXPECT_EQ(jpeg.header().height, 45);
  EXPECT_EQ(jpeg.header().width, 61);
  const auto png = bytes_of(fixture("rgb.png"));
  EXPECT_EQ(ImageDecoder(png, "png").header().format, ImageFormat::Png);
  EXPECT_EQ(ImageDecoder(png, "png").header().height, 13);
}

TEST(ImageDecoder, DecodesAnyPartAsCroppingTheWholeDoes) {
  std::uint32_t state = 1;
  const auto below = [&](std::int64_t limit) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int64_t>(state >> 8) % limit;
  };
  for (const auto* name : {"rgb_420.jpg", "rgb_422.jpg", "rgb_444.jpg", "progressive.jpg",
                           "grey.jpg", "cmyk.jpg", "rgb_alpha.png"}) {
    const auto bytes = bytes_of(fixture(name));
    const ImageDecoder decoder(bytes, name);
    const auto whole = decoder.decode();
    for (int i = 0; i < 60; ++i) {
      const auto height = 1 + below(whole.height());
      const auto width = 1 + below(whole.width());
      const ImageBox part{below(whole.height() - height + 1), below(whole.width() - width + 1),
                          height, width};
      EXPECT_EQ(
          largest_difference(decoder.decode_resized(part, height, width, false), crop(whole, part)),
          0)
          << name << ' ' << part.top << ' ' << part.left << ' ' << height << ' ' << width;
      const auto small = resize(crop(whole, part), 5, 7);
      EXPECT_EQ(largest_difference(decoder.decode_resized(part, 5, 7, false), small), 0) << name;
    }
  }
}

// The file's own frequencies against the same image resized. They differ at most where the content
// is rough; it is smooth here but for noise of 5 in each direction.
TEST(ImageDecoder, ScaledDecodingIsCloseAndKeepsThePart) {
  for (const auto* name : {"rgb_420.jpg", "rgb_444.jpg", "grey.jpg"}) {
    const auto bytes = bytes_of(fixture(name));
    const ImageDecoder decoder(bytes, name);
    const ImageBox part{5, 3, 39, 57};
    for (const std::int64_t size : {4, 9, 19}) {
      const auto exact = decoder.decode_resized(part, size, size, false);
      const auto scaled = decoder.decode_resized(part, size, size, true);
      const int difference = largest_difference(scaled, exact);
      EXPECT_GT(difference, 0) << name << ": was not scaled to " << size;
      EXPECT_LE(difference, 24) << name << ' ' << size;
    }
    EXPECT_EQ(largest_difference(decoder.decode_resized(part, 20, 20, true),
                                 decoder.decode_resized(part, 20, 20, false)),
              0)
        << name << ": half of 39 rows is less than 20";
  }
}

// The whole image at 1/`scale`, and then the part of it.
Image part_of_scaled(const Bytes& bytes, const ImageHeader& header, const ImageBox& part,
                     std::int64_t height, std::int64_t width) {
  const int scale = jpeg_scale(part, height, width);
  JpegReader reader({bytes, "whole"}, {0, 0, header.height, header.width}, scale);
  Image whole(reader.rows(), reader.width());
  reader.read(whole.row(0), reader.rows());
  const double unit = scale;
  const FractionalBox box{
      static_cast<double>(part.top) / unit, static_cast<double>(part.left) / unit,
      static_cast<double>(part.height) / unit, static_cast<double>(part.width) / unit};
  return resize(whole, box, height, width);
}

// What fresh memory holds, where the allocator can be told.
Image resized_over(int fill, const ImageDecoder& decoder, const ImageBox& part, std::int64_t height,
                   std::int64_t width) {
  ::mallopt(M_PERTURB, fill);
  auto image = decoder.decode_resized(part, height, width, true);
  ::mallopt(M_PERTURB, 0);
  return image;
}

TEST(ImageDecoder, ScaledPartsAreThoseOfTheScaledWholeWhateverTheSampling) {
  const std::vector<Sampling> plain{{1, 1}, {1, 1}, {1, 1}};
  for (const auto& components :
       std::vector<std::vector<Sampling>>{plain,
                                          {{2, 2}, {1, 1}, {1, 1}},
                                          {{2, 1}, {1, 1}, {1, 1}},
                                          {{1, 2}, {1, 1}, {1, 1}},
                                          {{4, 1}, {1, 1}, {1, 1}},
                                          {{4, 2}, {1, 1}, {1, 1}},
                                          {{2, 4}, {1, 1}, {1, 1}},
                                          {{1, 1}, {1, 4}, {2, 1}},
                                          {{1, 2}, {1, 4}, {4, 1}},
                                          {{2, 2}, {1, 1}, {1, 1}, {1, 4}}}) {
    JpegKind kind;
    kind.components = components;
    const auto bytes = encode_jpeg(kind);
    const ImageDecoder decoder(bytes, "sampled");
    for (const ImageBox& part :
         {ImageBox{0, 0, 160, 200}, ImageBox{20, 31, 120, 130}, ImageBox{51, 96, 101, 104}}) {
      for (const std::int64_t size : {12, 25, 50}) {
        const auto image = resized_over(0x33, decoder, part, size, size);
        const auto again = resized_over(0xCC, decoder, part, size, size);
        EXPECT_EQ(largest_difference(image, again), 0)
            << text_of(kind) << part.left << " to " << size;
        const auto expected = part_of_scaled(bytes, decoder.header(), part, size, size);
        EXPECT_LE(largest_difference(image, expected), 1)
            << text_of(kind) << part.left << " to " << size;
      }
    }
  }
}

TEST(ImageDecoder, RefusesAPartThatIsNotInside) {
  const auto bytes = bytes_of(fixture("rgb_420.jpg"));
  const ImageDecoder decoder(bytes, "the.file");
  for (const ImageBox& part : {ImageBox{0, 0, 46, 1}, ImageBox{-1, 0, 3, 3}, ImageBox{0, 0, 0, 5},
                               ImageBox{0, 60, 1, 2}}) {
    const auto message =
        message_of([&] { static_cast<void>(decoder.decode_resized(part, 4, 4, true)); });
    EXPECT_NE(message.find("the.file: the part of"), std::string::npos) << message;
  }
}

TEST(ImageDecoder, EveryTruncationIsAnErrorThatNamesTheFile) {
  for (const auto* name :
       {"rgb_420.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "rgb.png", "interlaced.png"}) {
    const auto whole = bytes_of(fixture(name));
    // What follows the last pixel of a PNG file: the pixel data's end and checksums, an end chunk.
    const std::size_t after_pixels = whole.front() == std::byte{0x89} ? 21 : 0;
    for (std::size_t size = 0; size < whole.size() - after_pixels; ++size) {
      const auto message =
          decoding_error(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
      EXPECT_NE(message.find("the.file: "), std::string::npos) << name << ' ' << size << message;
    }
  }
}

TEST(ImageDecoder, SaysWhatIsDamaged) {
  auto jpeg = bytes_of(fixture("rgb_420.jpg"));
  jpeg.resize(jpeg.size() - 100);
  EXPECT_NE(decoding_error(jpeg).find("Premature end of JPEG file"), std::string::npos)
      << decoding_error(jpeg);
  auto png = bytes_of(fixture("rgb.png"));
  png[60] ^= std::byte{0xFF};
  EXPECT_NE(decoding_error(png).find("the.file: damaged or unsupported PNG data: "),
            std::string::npos)
      << decoding_error(png);
  png.resize(60);
  EXPECT_NE(decoding_error(png).find("the file ends too early"), std::string::npos)
      << decoding_error(png);
}

// What Pillow and torchvision load without a word.
TEST(ImageDecoder, TakesOdditiesBesideThePixels) {
  const auto plain = bytes_of(fixture("rgb_420.jpg"));
  const auto whole = decoded("rgb_420.jpg");
  ASSERT_EQ(plain.at(3), std::byte{0xE0}) << "no JFIF segment at the beginning";
  auto version = plain;
  version[11] = std::byte{3};
  auto extraneous = plain;
  extraneous.insert(extraneous.end() - 2, 7, std::byte{0x55});
  // An unknown Adobe transform in the place of JFIF's segment.
  const std::string_view adobe(
      "\xFF\xEE\x00\x0E"
      "Adobe\x00\x64\x00\x00\x00\x00\x07",
      16);
  Bytes transform(plain.begin(), plain.begin() + 2);
  for (const char c : adobe) transform.push_back(static_cast<std::byte>(c));
  transform.insert(transform.end(), plain.begin() + 20, plain.end());
  for (const auto& bytes : {version, extraneous, transform}) {
    EXPECT_EQ(largest_difference(ImageDecoder(bytes, "odd").decode(), whole), 0);
  }
}

TEST(ImageDecoder, DamagedPixelsStayAnError) {
  JpegKind kind;
  kind.restart_interval = 5;
  const auto good = encode_jpeg(kind);
  EXPECT_NO_THROW(static_cast<void>(ImageDecoder(good, "good").decode()));
  std::vector<std::size_t> restarts;
  for (std::size_t i = 0; i + 1 < good.size(); ++i) {
    const auto next = static_cast<int>(good[i + 1]);
    if (good[i] == std::byte{0xFF} && next >= 0xD0 && next <= 0xD7) restarts.push_back(i);
  }
  ASSERT_GT(restarts.size(), 4U);
  auto lost = good;
  lost[restarts[2] + 1] = std::byte{0xD6};
  EXPECT_NE(decoding_error(lost).find("found marker 0xd6 instead of RST2"), std::string::npos)
      << decoding_error(lost);
  auto code = good;
  for (std::size_t i = restarts[1] + 2; i + 1 < restarts[2]; i += 2) {
    code[i] = std::byte{0xFF};  // sixteen ones and more are no code
    code[i + 1] = std::byte{0};
  }
  EXPECT_NE(decoding_error(code).find("bad Huffman code"), std::string::npos)
      << decoding_error(code);
}

TEST(ImageDecoder, ToleratesDamageWhenAsked) {
  auto bytes = bytes_of(fixture("rgb_420.jpg"));
  const auto whole = decoded("rgb_420.jpg");
  bytes.resize(bytes.size() - 100);
  const auto image =
      ImageDecoder(bytes, "half", ImageDecoderOptions().tolerate_damage(true)).decode();
  const ImageBox first_rows{0, 0, 8, 61};
  EXPECT_EQ(largest_difference(crop(image, first_rows), crop(whole, first_rows)), 0);
}

TEST(ImageDecoder, RefusesWhatIsTooLargeBeforeItTakesMemory) {
  const auto jpeg = with_jpeg_size(bytes_of(fixture("rgb_420.jpg")), 65500, 65500);
  EXPECT_NE(decoding_error(jpeg).find("the.file: the header says 65500 x 65500 pixels"),
            std::string::npos)
      << decoding_error(jpeg);
  const auto png = with_png_size(bytes_of(fixture("rgb.png")), 0x7FFFFFFF, 0x7FFFFFFF);
  EXPECT_NE(decoding_error(png).find("the.file: the header says 2147483647 x 2147483647"),
            std::string::npos)
      << decoding_error(png);
  const auto small = ImageDecoderOptions().max_pixels(45 * 61 - 1);
  EXPECT_NE(decoding_error(bytes_of(fixture("rgb_420.jpg")), small).find("more than the 2744"),
            std::string::npos);
  EXPECT_NE(decoding_error(jpeg, ImageDecoderOptions().max_pixels(0)).find("max_pixels is 0"),
            std::string::npos);
  const auto none = with_png_size(bytes_of(fixture("rgb.png")), 0, 17);
  EXPECT_NE(decoding_error(none).find("the.file: "), std::string::npos);
}

TEST(ImageDecoder, NamesOtherFormats) {
  const auto error_for = [](const std::string& text) {
    Bytes bytes(text.size());
    std::transform(text.begin(), text.end(), bytes.begin(),
                   [](char letter) { return static_cast<std::byte>(letter); });
    return decoding_error(bytes);
  };
  EXPECT_NE(error_for("GIF89a....").find("found a GIF file"), std::string::npos);
  EXPECT_NE(error_for("BM......").find("found a BMP file"), std::string::npos);
  EXPECT_NE(error_for("RIFF....WEBPVP8").find("found a WebP file"), std::string::npos);
  EXPECT_NE(error_for("II*.").find("found a TIFF file"), std::string::npos);
  EXPECT_NE(error_for("P6 1 1").find("found a PPM"), std::string::npos);
  EXPECT_NE(error_for("").find("an empty file"), std::string::npos);
  EXPECT_NE(error_for("hello").find("something else"), std::string::npos);
}

TEST(ImageDecoder, ReadsFiles) {
  const auto tensor = read_image(fixture("rgb_420.jpg").string());
  EXPECT_EQ(tensor.sizes(), (std::vector<std::int64_t>{3, 45, 61}));
  EXPECT_EQ(tensor.scalar_type(), torch::kByte);
  EXPECT_EQ(largest_difference(Image::from_tensor(tensor), decoded("rgb_420.jpg")), 0);
  const auto error = [](const std::string& path, const ImageDecoderOptions& options = {}) {
    return message_of([&] { static_cast<void>(read_image(path, options)); });
  };
  EXPECT_NE(error("/nowhere/at.jpg").find("/nowhere/at.jpg: cannot be opened: No such file"),
            std::string::npos);
  EXPECT_NE(error("/tmp").find("/tmp: is not an ordinary file"), std::string::npos);
  EXPECT_NE(error(fixture("rgb_420.jpg").string(), ImageDecoderOptions().max_file_bytes(100))
                .find("more than the 100"),
            std::string::npos);
}

TEST(Image, TakesTensorsOfAnyStridesAndNoOthers) {
  const auto tensor = torch::arange(24, torch::kByte).view({3, 2, 4});
  EXPECT_TRUE(torch::equal(Image::from_tensor(tensor).to_tensor(), tensor));
  const auto turned = tensor.permute({0, 2, 1});
  EXPECT_TRUE(torch::equal(Image::from_tensor(turned).to_tensor(), turned));
  for (const auto& bad :
       {torch::Tensor(), torch::zeros({3, 2, 4}), torch::zeros({1, 2, 4}, torch::kByte),
        torch::zeros({3, 4}, torch::kByte)}) {
    const auto message = message_of([&] { static_cast<void>(Image::from_tensor(bad)); });
    EXPECT_NE(message.find("expected a dense uint8 {3, H, W}"), std::string::npos) << message;
  }
  EXPECT_NE(message_of([] { Image(0, 5); }).find("the size is 0 x 5"), std::string::npos);
  EXPECT_NE(message_of([] { Image(1 << 20, 1 << 20); }).find("at most"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
