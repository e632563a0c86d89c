// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/images/image_decoder.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "unit/data/images/encoded_image_support.h"
#include "unit/data/images/image_test_support.h"

// What is right here is what Pillow 12.0.0 and torchvision 0.26.0 do, where they agree; where only
// Pillow decodes, what PNG's checksums say.
namespace lockstep::data {
namespace {

struct Chunk {
  std::string type;
  EncodedBytes content;
};

std::vector<Chunk> chunks_of(const EncodedBytes& file) {
  std::vector<Chunk> chunks;
  for (std::size_t at = 8; at < file.size();) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      length = length << 8 | std::to_integer<std::size_t>(file.at(at + i));
    }
    const auto* type = reinterpret_cast<const char*>(file.data() + at + 4);
    chunks.push_back({std::string(type, 4), part_of(file, at + 8, at + 8 + length)});
    at += 12 + length;
  }
  return chunks;
}

// A file in pieces: up to the pixel data, that data, and what is around it.
class PngDamage : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    file_ = bytes_of(fixture(GetParam()));
    head_ = part_of(file_, 0, 8);
    for (const auto& chunk : chunks_of(file_)) {
      if (chunk.type == "IDAT") {
        data_ = chunk.content;
      } else if (chunk.type != "IEND") {
        head_ = joined_bytes({head_, png_chunk(chunk.type, chunk.content)});
      }
    }
    whole_ = decoded(GetParam());
  }

  void expect_whole(const std::vector<EncodedBytes>& parts, const std::string& what) const {
    const auto file = joined_bytes(parts);
    const ImageBox part{1, 0, 1, 2};
    try {
      const ImageDecoder decoder(file, what);
      EXPECT_EQ(largest_difference(decoder.decode(), whole_), 0) << GetParam() << ": " << what;
      EXPECT_EQ(largest_difference(decoder.decode_resized(part, 1, 2, true), crop(whole_, part)), 0)
          << GetParam() << ": " << what;
    } catch (const c10::Error& error) {
      ADD_FAILURE() << GetParam() << ": " << what << ": " << error.what_without_backtrace();
    }
  }
  static void expect_refused(const std::vector<EncodedBytes>& parts, const std::string& why) {
    const auto message = decoding_error(joined_bytes(parts));
    EXPECT_NE(message.find("the.file: damaged or unsupported PNG data: " + why), std::string::npos)
        << GetParam() << ": " << message;
  }
  [[nodiscard]] static EncodedBytes with_wrong_checksum(EncodedBytes chunk) {
    chunk.back() ^= std::byte{1};
    return chunk;
  }

  EncodedBytes file_;
  EncodedBytes head_;
  EncodedBytes data_;
  EncodedBytes end_ = png_chunk("IEND", {});
  Image whole_;
};

TEST_P(PngDamage, BehindTheLastPixelDoesNoHarm) {
  const auto pixels = png_chunk("IDAT", data_);
  expect_whole({head_, pixels}, "no end");
  expect_whole({head_, pixels, encoded_bytes("\1\2")}, "half a chunk");
  expect_whole({head_, pixels, with_wrong_checksum(end_)}, "an end with a wrong checksum");
  expect_whole({head_, pixels, encoded_bytes(std::string("\x7F\xFF\xFF\xFFIEND", 8))}, "long end");
  expect_whole({head_, pixels, EncodedBytes(12)}, "zeros for an end");
  expect_whole({head_, pixels, end_, encoded_bytes("and some other file")}, "junk");
  const auto text = png_chunk("tEXt", encoded_bytes("a comment"));
  expect_whole({head_, pixels, with_wrong_checksum(text), end_}, "a damaged comment");
  expect_whole({head_, pixels, encoded_bytes(std::string("\x3F\xFF\xFF\xFFtEXtabc", 11))},
               "a comment that is not there");
  expect_whole({head_, pixels, png_chunk("ABCD", {}), end_}, "an unknown critical chunk");
  expect_whole({head_, pixels, png_chunk("\1\2\3\4", {}), end_}, "a damaged type");
  expect_whole({head_, png_chunk("IDAT", joined_bytes({data_, encoded_bytes("extra")})), end_},
               "more data than pixels");
  // The checksum of the pixels, and that of the chunk.
  const auto to_last = head_.size() + pixels.size();
  for (std::size_t cut = 1; cut <= 8; ++cut) {
    expect_whole({part_of(joined_bytes({head_, pixels}), 0, to_last - cut)}, "cut");
  }
  expect_whole({head_, png_chunk("IDAT", part_of(data_, 0, data_.size() - 4)), end_},
               "no checksum of the pixels");
}

TEST_P(PngDamage, InFrontOfThePixelsOnlyCountsWhereTheyNeedIt) {
  const auto pixels = png_chunk("IDAT", data_);
  const auto text = png_chunk("tEXt", encoded_bytes("a comment"));
  expect_whole({head_, with_wrong_checksum(text), pixels, end_}, "a damaged comment");
  expect_whole({head_, text, text, png_chunk("gAMA", {}), pixels, end_}, "an empty gamma");
  expect_refused({head_, png_chunk("ABCD", {}), pixels, end_},
                 "a chunk that must be known and is not, ABCD");
  expect_refused({head_, png_chunk("A1CD", {}), pixels, end_}, "a chunk of a damaged type, A?CD");
  expect_refused({head_, end_}, "no pixel data before IEND");
  expect_refused({part_of(file_, 0, 8), pixels}, "no header before IDAT");
  auto header = head_;
  header[32] ^= std::byte{1};
  expect_refused({header, pixels, end_}, "a wrong checksum of IHDR");
}

TEST_P(PngDamage, OfThePixelsIsAnErrorUnlessTolerated) {
  const auto half = data_.size() / 2;
  const auto first = png_chunk("IDAT", part_of(data_, 0, half));
  const auto second = png_chunk("IDAT", part_of(data_, half, data_.size()));
  expect_whole({head_, first, second, end_}, "two chunks");
  expect_refused({head_, with_wrong_checksum(first), second, end_}, "a wrong checksum of IDAT");
  expect_refused({head_, first, with_wrong_checksum(second), end_}, "a wrong checksum of IDAT");
  // The header alone does not look at them.
  const auto wrong = joined_bytes({head_, with_wrong_checksum(first), second, end_});
  EXPECT_EQ(ImageDecoder(wrong, "header").header().height, whole_.height());
  expect_refused({head_, first, png_chunk("tEXt", {}), second, end_},
                 "not enough pixel data before tEXt");
  expect_refused({head_, first, end_}, "not enough pixel data before IEND");
  auto other = data_;
  other.back() ^= std::byte{1};
  expect_refused({head_, png_chunk("IDAT", other), end_}, "");
  for (const auto& parts : {std::vector{head_, with_wrong_checksum(first), second, end_},
                            std::vector{head_, png_chunk("IDAT", other), end_}}) {
    EXPECT_EQ(largest_difference(tolerated(joined_bytes(parts)), whole_), 0) << GetParam();
  }
}

TEST_P(PngDamage, ToleratedGivesWhatThereIsAndBlack) {
  int missing_before = 1 << 30;
  bool has_part = false;
  for (std::size_t kept = 0; kept <= data_.size(); ++kept) {
    // Cut off, or followed by nonsense.
    const auto file = kept % 2 == 0
                          ? joined_bytes({head_, png_chunk("IDAT", part_of(data_, 0, kept))})
                          : part_of(file_, 0, head_.size() + 8 + kept);
    Image image;
    try {
      image = tolerated(file);
    } catch (const c10::Error&) {
      EXPECT_FALSE(has_part) << GetParam() << ": less with more data, " << kept;
      continue;
    }
    has_part = true;
    int missing = 0;
    for (std::int64_t i = 0; i < image.pixels() * Image::kBytesPerPixel; ++i) {
      if (i % Image::kBytesPerPixel == 3) continue;
      const auto found = image.row(0)[i];
      if (found == whole_.row(0)[i]) continue;
      ++missing;
      EXPECT_EQ(found, 0) << GetParam() << ' ' << kept << ": neither the pixel nor black";
    }
    EXPECT_LE(missing, missing_before) << GetParam() << ' ' << kept;
    missing_before = missing;
  }
  EXPECT_EQ(missing_before, 0);
  EXPECT_TRUE(has_part);
}

// Seven passes, of which small images lack some: behind the last pixel nothing is missing.
TEST(PngInterlaced, OfAnySizeNeedsNoMoreThanItsPixels) {
  struct Pass {
    std::size_t left, top, across, down;
  };
  constexpr Pass kPasses[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                              {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
  const auto grey = [](std::size_t y, std::size_t x) {
    return static_cast<std::uint8_t>(1 + y * 16 + x);
  };
  for (std::size_t height = 1; height <= 10; ++height) {
    for (std::size_t width = 1; width <= 10; ++width) {
      std::vector<std::uint8_t> rows;
      for (const auto& pass : kPasses) {
        for (auto y = pass.top; y < height && pass.left < width; y += pass.down) {
          rows.push_back(0);  // no filter
          for (auto x = pass.left; x < width; x += pass.across) rows.push_back(grey(y, x));
        }
      }
      EncodedBytes data(::compressBound(rows.size()));
      uLongf bytes = data.size();
      ASSERT_EQ(::compress(reinterpret_cast<Bytef*>(data.data()), &bytes, rows.data(), rows.size()),
                Z_OK);
      data.resize(bytes - 4);  // without the checksum of the pixels
      EncodedBytes header(13);
      put(header, 0, width, 4);
      put(header, 4, height, 4);
      put(header, 8, 8, 1);
      put(header, 12, 1, 1);
      const auto file = joined_bytes(
          {encoded_bytes("\x89PNG\r\n\x1A\n"), png_chunk("IHDR", header), png_chunk("IDAT", data)});
      const auto image = ImageDecoder(file, "interlaced").decode();
      for (std::size_t i = 0; i < height * width; ++i) {
        ASSERT_EQ(image.row(0)[i * Image::kBytesPerPixel], grey(i / width, i % width))
            << height << " x " << width << ", pixel " << i;
      }
    }
  }
}

/// Whole pieces of deflated data, each of which ends at a byte.
class DeflatedPieces {
 public:
  DeflatedPieces() { EXPECT_EQ(::deflateInit(&stream_, Z_BEST_COMPRESSION), Z_OK); }
  ~DeflatedPieces() { ::deflateEnd(&stream_); }
  DeflatedPieces(const DeflatedPieces&) = delete;
  DeflatedPieces& operator=(const DeflatedPieces&) = delete;

  EncodedBytes next(std::vector<std::uint8_t> raw) {
    EncodedBytes deflated(::deflateBound(&stream_, raw.size()) + 16);
    stream_.next_in = raw.data();
    stream_.avail_in = static_cast<uInt>(raw.size());
    stream_.next_out = reinterpret_cast<Bytef*>(deflated.data());
    stream_.avail_out = static_cast<uInt>(deflated.size());
    EXPECT_EQ(::deflate(&stream_, Z_FULL_FLUSH), Z_OK);
    deflated.resize(deflated.size() - stream_.avail_out);
    return deflated;
  }

 private:
  z_stream stream_{};
};

/// Decodes a file in memory of which only the beginning can be read, and tells by its exit status
/// whether the first pixel is this one.
[[noreturn]] void decode_beginning(const EncodedBytes& file, std::size_t readable, int pixel,
                                   bool tolerates_damage) {
  auto* memory = static_cast<std::byte*>(
      ::mmap(nullptr, file.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) std::_Exit(2);
  std::copy(file.begin(), file.end(), memory);
  if (::mprotect(memory + readable, file.size() - readable, PROT_NONE) != 0) std::_Exit(3);
  const auto options = ImageDecoderOptions().tolerate_damage(tolerates_damage);
  const auto image = ImageDecoder({memory, file.size()}, "endless", options).decode();
  std::_Exit(image.row(0)[0] == pixel ? 0 : 1);
}

TEST(PngEndless, DataIsNotInflatedBehindTheLastPixel) {
  constexpr std::size_t kReadable = 1 << 16;  // whole pages
  constexpr std::uint8_t kPixel = 77;
  EncodedBytes header(13);
  put(header, 3, 1, 1);
  put(header, 7, 1, 1);
  put(header, 8, 8, 1);
  DeflatedPieces pieces;
  const auto first = png_chunk("IDAT", pieces.next({0, kPixel}));
  const auto zeros = png_chunk("IDAT", pieces.next(std::vector<std::uint8_t>(1 << 20)));
  std::vector<EncodedBytes> parts{encoded_bytes("\x89PNG\r\n\x1A\n"), png_chunk("IHDR", header),
                                  first};
  parts.insert(parts.end(), 500, zeros);
  const auto file = joined_bytes(parts);
  ASSERT_GT(file.size(), 2 * kReadable);
  for (const bool tolerates_damage : {false, true}) {
    EXPECT_EXIT(decode_beginning(file, kReadable, kPixel, tolerates_damage),
                ::testing::ExitedWithCode(0), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Files, PngDamage,
                         ::testing::Values("rgb.png", "palette.png", "grey_2.png", "rgb_alpha.png",
                                           "interlaced.png"));

}  // namespace
}  // namespace lockstep::data
