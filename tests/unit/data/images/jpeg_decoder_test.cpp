// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/images/image_decoder.h>

#include <algorithm>

#include "unit/data/images/encoded_image_support.h"
#include "unit/data/images/image_test_support.h"
#include "unit/data/images/jpeg_test_support.h"

namespace lockstep::data {
namespace {

constexpr int kScan = 0xDA;
constexpr int kTables = 0xC4;  // of Huffman codes

// The last three bytes of a scan's header: first and last coefficient, precision before and after.
std::size_t scan_parameters_at(const JpegSegment& scan) {
  return 5 + 2 * std::to_integer<std::size_t>(scan.bytes.at(4));
}

bool is_scan(const JpegSegment& segment, int first, int precision) {
  if (segment.marker != kScan) return false;
  const auto at = scan_parameters_at(segment);
  return segment.bytes.at(at) == static_cast<std::byte>(first) &&
         segment.bytes.at(at + 2) == static_cast<std::byte>(precision);
}

// The first scan with its tables, which stand in front of it, goes to `place`.
void move_scan(std::vector<JpegSegment>& segments, std::size_t scan, std::size_t place) {
  auto begin = scan;
  while (segments[begin - 1].marker == kTables) --begin;
  const auto from = segments.begin();
  std::rotate(from + static_cast<std::ptrdiff_t>(place), from + static_cast<std::ptrdiff_t>(begin),
              from + static_cast<std::ptrdiff_t>(scan + 1));
}

std::size_t find_scan(const std::vector<JpegSegment>& segments, int first, int precision) {
  const auto found = std::find_if(segments.begin(), segments.end(), [&](const auto& each) {
    return is_scan(each, first, precision);
  });
  EXPECT_NE(found, segments.end());
  return static_cast<std::size_t>(found - segments.begin());
}

// The file with its first `scans` scans, properly ended; empty when it has no more.
EncodedBytes with_scans(const EncodedBytes& file, int scans) {
  auto segments = segments_of(file);
  int count = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].marker != kScan || ++count < scans) continue;
    const auto end = segments.back();
    segments.resize(i + 1);
    segments.push_back(end);
    return file_of(segments);
  }
  return {};
}

TEST(JpegScans, BaselineScansMaySayAnythingOfCoefficients) {
  for (const auto* name : {"rgb_420.jpg", "grey.jpg", "cmyk.jpg"}) {
    for (const std::uint64_t value : {0U, 1U, 0x3FU, 0xFFU}) {
      auto segments = segments_of(bytes_of(fixture(name)));
      for (auto& segment : segments) {
        if (segment.marker == kScan) put(segment.bytes, scan_parameters_at(segment), value, 3);
      }
      const auto file = file_of(segments);
      EXPECT_EQ(largest_difference(ImageDecoder(file, name).decode(), decoded(name)), 0)
          << name << ' ' << value;
    }
  }
}

TEST(JpegScans, OrderDoesNotMatterAsLongAsAllBitsCome) {
  auto segments = segments_of(bytes_of(fixture("progressive.jpg")));
  const auto first = find_scan(segments, 0, 0x01);
  auto tables = first;
  while (segments[tables - 1].marker == kTables) --tables;
  const auto details = find_scan(segments, 1, 0x02);
  move_scan(segments, details, tables);
  ASSERT_LT(find_scan(segments, 1, 0x02), find_scan(segments, 0, 0x01));
  const auto file = file_of(segments);
  EXPECT_EQ(largest_difference(ImageDecoder(file, "order").decode(), decoded("progressive.jpg")),
            0);
  // Without any scan of the means there is nothing that the details belong to.
  for (const int precision : {0x01, 0x10}) {
    const auto means = static_cast<std::ptrdiff_t>(find_scan(segments, 0, precision));
    segments.erase(segments.begin() + means);
  }
  const auto lost = file_of(segments);
  EXPECT_NE(decoding_error(lost).find("the first scan of a component is missing"),
            std::string::npos)
      << decoding_error(lost);
  EXPECT_NO_THROW(static_cast<void>(tolerated(lost)));
}

TEST(JpegScans, ALostScanThatOthersRefineIsDamage) {
  auto segments = segments_of(bytes_of(fixture("progressive.jpg")));
  segments.erase(segments.begin() + static_cast<std::ptrdiff_t>(find_scan(segments, 1, 0x21)));
  const auto file = file_of(segments);
  EXPECT_NE(decoding_error(file).find("Inconsistent progression sequence"), std::string::npos)
      << decoding_error(file);
  EXPECT_NO_THROW(static_cast<void>(tolerated(file)));
}

TEST(JpegScans, PartsOfFilesThatLackScansAreThoseOfTheWhole) {
  for (const auto& components :
       std::vector<std::vector<Sampling>>{{{1, 1}},
                                          {{1, 1}, {1, 1}, {1, 1}},
                                          {{2, 2}, {1, 1}, {1, 1}},
                                          {{2, 1}, {1, 1}, {1, 1}},
                                          {{1, 2}, {1, 1}, {1, 1}},
                                          {{4, 1}, {1, 1}, {1, 1}},
                                          {{2, 4}, {1, 1}, {1, 1}},
                                          {{2, 1}, {1, 2}, {1, 1}},
                                          {{2, 2}, {1, 1}, {1, 1}, {2, 2}}}) {
    JpegKind kind;
    kind.width = 150;
    kind.height = 131;
    kind.components = components;
    kind.is_progressive = true;
    const auto all = encode_jpeg(kind);
    for (int scans = 1;; ++scans) {
      const auto file = with_scans(all, scans);
      if (file.empty()) break;
      const ImageDecoder decoder(file, "cut");
      const auto whole = decoder.decode();
      for (const ImageBox& part : {ImageBox{40, 70, 33, 29}, ImageBox{64, 32, 67, 118},
                                   ImageBox{97, 101, 1, 1}, ImageBox{0, 48, 20, 40}}) {
        EXPECT_EQ(largest_difference(decoder.decode_resized(part, part.height, part.width, false),
                                     crop(whole, part)),
                  0)
            << text_of(kind) << scans << " scans, part at " << part.top << ", " << part.left;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::data
