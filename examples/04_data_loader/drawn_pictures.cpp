// SPDX-License-Identifier: BSD-3-Clause
#include "drawn_pictures.h"

#include <array>
#include <cerrno>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>
// libjpeg's header needs stdio's names.
#include <jpeglib.h>

namespace {

constexpr int kQuality = 90;
constexpr unsigned kSmallest = 80;  // pixels a side
constexpr unsigned kLargest = 240;

struct Picture {
  unsigned width = 0;
  unsigned height = 0;
  std::vector<std::uint8_t> pixels;  // red, green, blue; rows from top to bottom
};

struct Pattern {
  const char* name;
  bool (*is_bright)(double x, double y);  // in waves from the picture's middle
};

bool is_odd(double waves) {
  return (static_cast<long>(std::floor(waves)) & 1) != 0;
}

constexpr std::array<Pattern, 3> kPatterns{{
    {"checks", [](double x, double y) { return is_odd(x) != is_odd(y); }},
    {"rings", [](double x, double y) { return is_odd(std::hypot(x, y)); }},
    {"stripes", [](double x, double) { return is_odd(x); }},
}};

Picture draw(const Pattern& pattern, std::mt19937& random) {
  const auto between = [&](unsigned low, unsigned high) {  // high is not among them
    return low + static_cast<unsigned>(random()) % (high - low);
  };
  Picture picture{between(kSmallest, kLargest), between(kSmallest, kLargest), {}};
  const double wave = between(6, 12);  // pixels
  std::array<std::array<std::uint8_t, 3>, 2> colours{};
  for (auto& channel : colours[0]) channel = static_cast<std::uint8_t>(between(0, 110));
  for (auto& channel : colours[1]) channel = static_cast<std::uint8_t>(between(145, 256));
  picture.pixels.reserve(std::size_t{3} * picture.width * picture.height);
  for (unsigned y = 0; y < picture.height; ++y) {
    for (unsigned x = 0; x < picture.width; ++x) {
      const bool bright =
          pattern.is_bright((x - picture.width / 2.0) / wave, (y - picture.height / 2.0) / wave);
      const auto& colour = colours[bright ? 1 : 0];
      picture.pixels.insert(picture.pixels.end(), colour.begin(), colour.end());
    }
  }
  return picture;
}

// libjpeg leaves by a jump when something is wrong; its own way would end the program.
struct Failure {
  jpeg_error_mgr manager;  // first: libjpeg hands out its address
  std::jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* failure = reinterpret_cast<Failure*>(info->err);
  failure->manager.format_message(info, failure->text);
  std::longjmp(failure->escape, 1);
}

struct Encoded {
  unsigned char* bytes = nullptr;  // from malloc
  unsigned long size = 0;
};

// Owns nothing that a jump could skip. False: `failure` says why.
bool encode(const Picture& picture, jpeg_compress_struct& info, Failure& failure, Encoded& out) {
  if (setjmp(failure.escape) != 0) return false;
  jpeg_create_compress(&info);
  ::jpeg_mem_dest(&info, &out.bytes, &out.size);
  info.image_width = picture.width;
  info.image_height = picture.height;
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  ::jpeg_set_defaults(&info);
  ::jpeg_set_quality(&info, kQuality, TRUE);
  ::jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPROW>(picture.pixels.data()) +
                std::size_t{3} * picture.width * info.next_scanline;
    ::jpeg_write_scanlines(&info, &row, 1);
  }
  ::jpeg_finish_compress(&info);
  return true;
}

void write_jpeg(const Picture& picture, const std::filesystem::path& path) {
  jpeg_compress_struct info{};
  Failure failure{};
  info.err = ::jpeg_std_error(&failure.manager);
  failure.manager.error_exit = leave;
  Encoded encoded;
  const bool is_encoded = encode(picture, info, failure, encoded);
  const std::unique_ptr<unsigned char, void (*)(void*)> owner(encoded.bytes, std::free);
  ::jpeg_destroy_compress(&info);
  if (!is_encoded) throw std::runtime_error(path.string() + ": " + failure.text);

  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(encoded.bytes),
             static_cast<std::streamsize>(encoded.size));
  file.close();
  if (!file) {
    throw std::runtime_error(path.string() +
                             ": cannot be written: " + std::generic_category().message(errno));
  }
}

}  // namespace

void draw_pictures(const std::filesystem::path& root, int per_class) {
  std::mt19937 random(4);
  for (const auto& pattern : kPatterns) {
    std::filesystem::create_directories(root / pattern.name);
    for (int i = 0; i < per_class; ++i) {
      write_jpeg(draw(pattern, random), root / pattern.name / (std::to_string(i) + ".jpg"));
    }
  }
}
