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
  info.in_color_space = colours == 4 ? JCS_CMYK : JCS_RGB;
  ::jpeg_set_defaults(&info);
  ::jpeg_set_quality(&info, 90, TRUE);
  info.restart_interval = kind.restart_interval;
  for (int c = 0; c < colours; ++c) {
    info.comp_info[c].h_samp_factor = kind.components[static_cast<std::size_t>(c)].h;
    info.comp_info[c].v_samp_factor = kind.components[static_cast<std::size_t>(c)].v;
  }
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

}  // namespace lockstep::data
