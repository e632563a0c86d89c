// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/jpeg_decoder.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <utility>
// libjpeg's headers need stdio's names.
#include <jpeglib.h>
// Needs the names of jpeglib.h.
#include <jerror.h>
#ifndef LIBJPEG_TURBO_VERSION
#error "this needs libjpeg-turbo (Debian: libjpeg62-turbo-dev), not another libjpeg"
#endif

namespace lockstep::data {
namespace {

// An image of many scans costs a pass over all its coefficients for each; real ones have some ten.
constexpr int kMaxScans = 256;
// Smooth upsampling looks at the neighbours of a pixel: so many more at each side, and the pixels
// of a box are those of the whole image.
constexpr std::int64_t kMargin = 2;

struct JpegFailure {
  jpeg_error_mgr manager;  // first: libjpeg hands out its address
  std::jmp_buf escape;
  bool tolerate_damage;
  bool lacks_first_scan;  // a component's details came before its means
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* failure = reinterpret_cast<JpegFailure*>(info->err);
  failure->manager.format_message(info, failure->text);
  std::longjmp(failure->escape, 1);
}

// Whether a warning leaves all pixels as they were encoded. Cameras and editors write such files,
// and Pillow and torchvision take them. These are all the warnings that libjpeg-turbo has.
bool is_harmless(int warning) {
  switch (warning) {
    // Beside the pixels.
    case JWRN_EXTRANEOUS_DATA:  // bytes between two segments
    case JWRN_JFIF_MAJOR:       // a version of JFIF that is not known
    case JWRN_ADOBE_XFORM:      // a number of Adobe's; the number of components decides
    case JWRN_BOGUS_ICC:        // the colour profile is not used
      return true;
    // Three bytes of a scan's header, which say nothing in a file that is not progressive: such a
    // scan always has all coefficients. Cameras set them to 0.
    case JWRN_NOT_SEQUENTIAL:
      return true;
    case JWRN_HUFF_BAD_CODE:   // the data is damaged
    case JWRN_ARITH_BAD_CODE:  // the same
    case JWRN_HIT_MARKER:      // the data of a scan is too short
    case JWRN_JPEG_EOF:        // the file is too short, as Pillow and torchvision refuse it
    case JWRN_MUST_RESYNC:     // a restart is lost, and pixels with it
    // A scan refines what no scan before has given, or gives it again: bits are wrong or lost.
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_TOO_MUCH_DATA:  // rows were asked for that are not there: a fault of this program
    default:
      return false;
  }
}

// A component's details before its means: no bit is wrong once the means have come.
bool is_scan_out_of_order(j_common_ptr info) {
  return info->err->msg_code == JWRN_BOGUS_PROGRESSION && info->err->msg_parm.i[1] == 0 &&
         reinterpret_cast<j_decompress_ptr>(info)->Ss > 0;
}

// Level -1 is a warning: as a rule the data is damaged. Higher levels are traces.
void hear(j_common_ptr info, int level) {
  if (level >= 0 || is_harmless(info->err->msg_code)) return;
  auto* failure = reinterpret_cast<JpegFailure*>(info->err);
  if (is_scan_out_of_order(info)) {
    failure->lacks_first_scan = true;
    return;
  }
  ++info->err->num_warnings;
  if (!failure->tolerate_damage) leave(info);
}

void ignore_output(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  const auto* decoder = reinterpret_cast<j_decompress_ptr>(info);
  if (decoder->input_scan_number <= kMaxScans) return;
  auto* failure = reinterpret_cast<JpegFailure*>(info->err);
  std::snprintf(failure->text, sizeof(failure->text), "more than %d scans", kMaxScans);
  std::longjmp(failure->escape, 1);
}

// Owns libjpeg's state, so it is freed whatever throws.
class Decompressor {
 public:
  explicit Decompressor(const EncodedImage& encoded) : encoded_(encoded) {
    info_.err = ::jpeg_std_error(&failure_.manager);
    failure_.manager.error_exit = leave;
    failure_.manager.emit_message = hear;
    failure_.manager.output_message = ignore_output;
    failure_.tolerate_damage = encoded.tolerate_damage;
    progress_.progress_monitor = limit_scans;
    guarded([this] {
      jpeg_create_decompress(&info_);
      info_.progress = &progress_;
      ::jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(encoded_.bytes.data()),
                     static_cast<unsigned long>(encoded_.bytes.size()));
      ::jpeg_read_header(&info_, TRUE);
    });
  }
  ~Decompressor() { ::jpeg_destroy_decompress(&info_); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  jpeg_decompress_struct& info() { return info_; }

  // Runs calls of libjpeg. An error of theirs jumps out of `calls`, which therefore must own
  // nothing, and becomes an exception here.
  template <class Calls>
  __attribute__((noinline)) void guarded(const Calls& calls) {
    if (setjmp(failure_.escape) != 0) fail(failure_.text);
    calls();
  }

  // Called when all scans are read: a warning at the time could not know what would follow.
  void check_first_scans() {
    if (!failure_.lacks_first_scan || failure_.tolerate_damage) return;
    for (int c = 0; c < info_.num_components; ++c) {
      if (info_.coef_bits[c][0] < 0) fail("the first scan of a component is missing");
    }
  }

  [[noreturn]] void fail(const char* text) {
    // A constructor that throws has no destructor.
    ::jpeg_destroy_decompress(&info_);
    TORCH_CHECK(false, encoded_.name, ": damaged or unsupported JPEG data: ", text);
    __builtin_unreachable();
  }

 private:
  EncodedImage encoded_;
  jpeg_decompress_struct info_{};
  jpeg_progress_mgr progress_{};
  JpegFailure failure_{};
};

// What Pillow does with four inks. It takes them as inverted, as Adobe's programs write them.
void rgb_from_inverted_cmyk(std::uint8_t* row, std::int64_t width) {
  const auto times = [](unsigned a, unsigned b) {  // a * b / 255, rounded
    const unsigned product = a * b + 128;
    return ((product >> 8) + product) >> 8;
  };
  for (std::int64_t x = 0; x < width; ++x, row += Image::kBytesPerPixel) {
    const unsigned paper = row[3];
    for (int c = 0; c < 3; ++c) {
      const unsigned ink = 255U - row[c];
      row[c] = static_cast<std::uint8_t>(paper - times(ink, paper));
    }
  }
}

void choose_output(Decompressor& decompressor, int scale) {
  auto& info = decompressor.info();
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    decompressor.fail("neither 1, 3 nor 4 colour components");
  }
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_EXT_RGBX;
  info.scale_num = 1;
  info.scale_denom = static_cast<unsigned>(scale);
}

#if JPEG_LIB_VERSION >= 70
int block_side(const jpeg_component_info& component) {
  return component.DCT_h_scaled_size;
}
int block_side(const jpeg_decompress_struct& info) {
  return info.min_DCT_h_scaled_size;
}
#else
int block_side(const jpeg_component_info& component) {
  return component.DCT_scaled_size;
}
int block_side(const jpeg_decompress_struct& info) {
  return info.min_DCT_scaled_size;
}
#endif

// When libjpeg-turbo leaves out columns, it takes all components for transformed at the same size.
// One that is larger, so as to need less upsampling, and still needs some, is then upsampled over a
// part of its columns only, and the rest of the row is whatever was in memory.
bool can_leave_out_columns(const jpeg_decompress_struct& info) {
  const int side = block_side(info);
  return std::all_of(
      info.comp_info, info.comp_info + info.num_components, [&](const jpeg_component_info& each) {
        const int own = block_side(each);
        const bool is_upsampled = each.h_samp_factor * own != info.max_h_samp_factor * side ||
                                  each.v_samp_factor * own != info.max_v_samp_factor * side;
        return own == side || !is_upsampled;
      });
}

// Where a progressive file lacks scans, libjpeg smooths over the edges of blocks. For that it looks
// at blocks around each one, and where it leaves out columns it takes the edge of what it decodes
// for the edge of the image. So nothing is left out of such an image.
bool is_smoothed(const jpeg_decompress_struct& info) {
  if (info.progressive_mode == FALSE || info.coef_bits == nullptr) return false;
  return std::any_of(info.coef_bits, info.coef_bits + info.num_components, [](const auto& bits) {
    return std::any_of(bits + 1, bits + DCTSIZE2, [](int missing) { return missing != 0; });
  });
}

}  // namespace

ImageHeader read_jpeg_header(const EncodedImage& encoded) {
  Decompressor decompressor(encoded);
  const auto& info = decompressor.info();
  return {ImageFormat::Jpeg, info.image_height, info.image_width};
}

// The other eighths exist, too, but libjpeg-turbo has vector code for these four only.
int jpeg_scale(const ImageBox& part, std::int64_t min_height, std::int64_t min_width) {
  int scale = 8;
  while (scale > 1 && (part.height / scale < min_height || part.width / scale < min_width)) {
    scale /= 2;
  }
  return scale;
}

struct JpegReader::State : Decompressor {
  using Decompressor::Decompressor;
};

JpegReader::JpegReader(const EncodedImage& encoded, const ImageBox& part, int scale)
    : state_(std::make_unique<State>(encoded)) {
  auto& info = state_->info();
  choose_output(*state_, scale);
  state_->guarded([&] { ::jpeg_start_decompress(&info); });
  state_->check_first_scans();

  // What of the scaled image holds the part.
  const std::int64_t height = info.output_height;
  const std::int64_t width = info.output_width;
  const auto begin_of = [scale](std::int64_t begin) {
    return std::max<std::int64_t>(begin / scale - kMargin, 0);
  };
  const auto end_of = [scale](std::int64_t end, std::int64_t limit) {
    return std::min((end + scale - 1) / scale + kMargin, limit);
  };
  const bool needs_all = is_smoothed(info);
  const auto top = needs_all ? 0 : begin_of(part.top);
  rows_ = end_of(part.top + part.height, height) - top;
  JDIMENSION left = 0;
  JDIMENSION columns = info.output_width;
  if (!needs_all && can_leave_out_columns(info)) {
    left = static_cast<JDIMENSION>(begin_of(part.left));
    columns = static_cast<JDIMENSION>(end_of(part.left + part.width, width)) - left;
  }
  state_->guarded([&] {
    // Moves the left side to where a block begins.
    if (columns < info.output_width) ::jpeg_crop_scanline(&info, &left, &columns);
    if (top > 0) ::jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(top));
  });
  width_ = info.output_width;

  const double unit = scale;
  part_.top = static_cast<double>(part.top) / unit - static_cast<double>(top);
  part_.left = static_cast<double>(part.left) / unit - static_cast<double>(left);
  part_.height =
      std::min(static_cast<double>(part.height) / unit, static_cast<double>(rows_) - part_.top);
  part_.width =
      std::min(static_cast<double>(part.width) / unit, static_cast<double>(width_) - part_.left);
}

JpegReader::~JpegReader() = default;

void JpegReader::read(std::uint8_t* target, std::int64_t count) {
  auto& info = state_->info();
  const auto stride = width_ * Image::kBytesPerPixel;
  state_->guarded([&] {
    constexpr std::int64_t kRowsAtOnce = 16;
    JSAMPROW rows[kRowsAtOnce];
    for (std::int64_t y = 0; y < count;) {
      const auto wanted = std::min(kRowsAtOnce, count - y);
      for (std::int64_t i = 0; i < wanted; ++i) rows[i] = target + (y + i) * stride;
      y += ::jpeg_read_scanlines(&info, rows, static_cast<JDIMENSION>(wanted));
    }
  });
  if (info.num_components != 4) return;
  for (std::int64_t y = 0; y < count; ++y) rgb_from_inverted_cmyk(target + y * stride, width_);
}

void JpegReader::finish() {
  state_->guarded([this] { ::jpeg_finish_decompress(&state_->info()); });
}

}  // namespace lockstep::data
