// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
// libjpeg's header needs stdio's names.
#include <jpeglib.h>

namespace lockstep::data {

/// Across and down.
struct Sampling {
  int h;
  int v;
};

struct JpegKind {
  int width = 200;
  int height = 160;
  std::vector<Sampling> components{{2, 2}, {1, 1}, {1, 1}};
  unsigned restart_interval = 0;
  bool is_progressive = false;
};

inline std::string text_of(const JpegKind& kind) {
  std::string text;
  for (const auto& each : kind.components) {
    text += std::to_string(each.h) + 'x' + std::to_string(each.v) + ' ';
  }
  return text;
}

/// Smooth waves, different in each colour. libjpeg's own error handling is good enough: it ends the
/// test program.
inline std::vector<std::byte> encode_jpeg(const JpegKind& kind) {
  const auto colours = static_cast<int>(kind.components.size());
  jpeg_compress_struct info{};
  jpeg_error_mgr manager{};
  info.err = ::jpeg_std_error(&manager);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  ::jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = static_cast<JDIMENSION>(kind.width);
  info.image_height = static_cast<JDIMENSION>(kind.height);
  info.input_components = colours;
  info.in_color_space = colours == 4 ? JCS_CMYK : colours == 3 ? JCS_RGB : JCS_GRAYSCALE;
  ::jpeg_set_defaults(&info);
  ::jpeg_set_quality(&info, 90, TRUE);
  info.restart_interval = kind.restart_interval;
  for (int c = 0; c < colours; ++c) {
    info.comp_info[c].h_samp_factor = kind.components[static_cast<std::size_t>(c)].h;
    info.comp_info[c].v_samp_factor = kind.components[static_cast<std::size_t>(c)].v;
  }
  if (kind.is_progressive) ::jpeg_simple_progression(&info);
  ::jpeg_start_compress(&info, TRUE);
  std::vector<unsigned char> row(static_cast<std::size_t>(kind.width * colours));
  for (int y = 0; y < kind.height; ++y) {
    for (int i = 0; i < kind.width * colours; ++i) {
      const double wave = std::sin(i / colours * 0.03 + i % colours) * std::cos(y * 0.04);
      row[static_cast<std::size_t>(i)] = static_cast<unsigned char>(128 + 100 * wave);
    }
    JSAMPROW begin = row.data();
    ::jpeg_write_scanlines(&info, &begin, 1);
  }
  ::jpeg_finish_compress(&info);
  ::jpeg_destroy_compress(&info);
  const auto* begin = reinterpret_cast<const std::byte*>(bytes);
  std::vector<std::byte> file(begin, begin + size);
  std::free(bytes);
  return file;
}

/// A marker of a JPEG file with all that belongs to it: of a scan its data, too.
struct JpegSegment {
  int marker;
  std::vector<std::byte> bytes;
};

/// From the start of the image to its end.
inline std::vector<JpegSegment> segments_of(const std::vector<std::byte>& file) {
  const auto at = [&](std::size_t i) { return std::to_integer<int>(file.at(i)); };
  std::vector<JpegSegment> segments;
  for (std::size_t i = 0; i + 1 < file.size();) {
    const int marker = at(i + 1);
    const bool is_bare = marker == 0xD8 || marker == 0xD9;
    std::size_t end = i + 2;
    if (!is_bare) end += static_cast<std::size_t>(at(end) << 8 | at(end + 1));
    const auto is_data = [&](int next) { return next == 0 || (next >= 0xD0 && next <= 0xD7); };
    while (marker == 0xDA && !(at(end) == 0xFF && !is_data(at(end + 1)))) ++end;
    segments.push_back({marker,
                        {file.begin() + static_cast<std::ptrdiff_t>(i),
                         file.begin() + static_cast<std::ptrdiff_t>(end)}});
    i = end;
  }
  return segments;
}

inline std::vector<std::byte> file_of(const std::vector<JpegSegment>& segments) {
  std::vector<std::byte> file;
  for (const auto& each : segments) file.insert(file.end(), each.bytes.begin(), each.bytes.end());
  return file;
}

}  // namespace lockstep::data
