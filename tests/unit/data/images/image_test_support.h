// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_decoder.h>
#include <lockstep/data/images/image_operations.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace lockstep::data {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(LOCKSTEP_IMAGE_FIXTURES) / name;
}

inline std::vector<std::byte> bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  std::vector<std::byte> bytes(static_cast<std::size_t>(std::filesystem::file_size(path)));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

/// Words of a line of cases.txt, but for the last, which says where the result lies.
struct Case {
  std::vector<std::string> words;
  std::size_t offset = 0;

  [[nodiscard]] const std::string& word(std::size_t i) const { return words.at(i); }
  [[nodiscard]] std::int64_t number(std::size_t i) const { return std::stoll(words.at(i)); }
  [[nodiscard]] double real(std::size_t i) const { return std::stod(words.at(i)); }
  [[nodiscard]] std::string text() const {
    std::string all;
    for (const auto& each : words) all += each + ' ';
    return all;
  }
};

/// Cases of a kind; a kind without cases fails the test.
inline std::vector<Case> cases(const std::string& kind) {
  std::ifstream file(fixture("cases.txt"));
  std::vector<Case> found;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Case next;
    for (std::string word; words >> word;) next.words.push_back(word);
    if (next.words.front() != kind) continue;
    next.offset = static_cast<std::size_t>(std::stoull(next.words.back()));
    next.words.pop_back();
    found.push_back(next);
  }
  EXPECT_FALSE(found.empty()) << "no case of " << kind;
  return found;
}

inline const std::vector<std::byte>& expected_bytes() {
  static const auto bytes = bytes_of(fixture("expected.bin"));
  return bytes;
}

/// As image_fixtures.py makes it.
inline Image pattern(std::int64_t height, std::int64_t width) {
  Image image(height, width);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (std::int64_t c = 0; c < 4; ++c) {
        const auto value = x * x * 3 + y * y * 5 + x * y * 7 + c * 85 + ((x * 31) ^ (y * 17));
        image.row(y)[4 * x + c] = c == 3 ? 0 : static_cast<std::uint8_t>(value & 255);
      }
    }
  }
  return image;
}

/// Of red, green and blue; a test failure where the sizes differ.
inline int largest_difference(const Image& a, const Image& b) {
  EXPECT_EQ(a.height(), b.height());
  EXPECT_EQ(a.width(), b.width());
  if (a.height() != b.height() || a.width() != b.width()) return 256;
  int largest = 0;
  for (std::int64_t y = 0; y < a.height(); ++y) {
    for (std::int64_t i = 0; i < 4 * a.width(); ++i) {
      if (i % 4 < 3) largest = std::max(largest, std::abs(int{a.row(y)[i]} - int{b.row(y)[i]}));
    }
  }
  return largest;
}

inline Image expected_image(const Case& of, std::int64_t height, std::int64_t width) {
  Image image(height, width);
  const auto* from = expected_bytes().data() + of.offset;
  EXPECT_LE(of.offset + static_cast<std::size_t>(3 * height * width), expected_bytes().size());
  for (std::int64_t i = 0; i < height * width; ++i)
    std::memcpy(image.row(0) + 4 * i, from + 3 * i, 3);
  return image;
}

inline Image decoded(const std::string& name) {
  const auto bytes = bytes_of(fixture(name));
  return ImageDecoder(bytes, name).decode();
}

}  // namespace lockstep::data
