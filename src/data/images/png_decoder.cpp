// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/png_decoder.h"

#include <c10/util/Exception.h>
#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "data/images/png_chunks.h"

namespace lockstep::data {
namespace {

struct PngFailure {
  std::jmp_buf escape;
  bool has_other_pixels;
  char text[256];
};

[[noreturn]] void leave(png_structp png, png_const_charp text) {
  auto* failure = static_cast<PngFailure*>(::png_get_error_ptr(png));
  std::snprintf(failure->text, sizeof(failure->text), "%s", text);
  std::longjmp(failure->escape, 1);
}

// libpng warns where the data goes on behind the last pixel, which does no harm. Only one of its
// warnings is about the pixels: all are there, and their checksum says that they are others.
void hear_warning(png_structp png, png_const_charp text) {
  if (std::strstr(text, "incorrect data check") == nullptr) return;
  auto* failure = static_cast<PngFailure*>(::png_get_error_ptr(png));
  std::snprintf(failure->text, sizeof(failure->text), "%s", text);
  failure->has_other_pixels = true;
}

void take(png_structp png, png_bytep target, std::size_t count) {
  auto* stream = static_cast<PngPixelStream*>(::png_get_io_ptr(png));
  if (!stream->read({reinterpret_cast<std::byte*>(target), count})) {
    ::png_error(png, stream->error());
  }
}

void clear_rows(Image& image, std::int64_t first) {
  std::memset(
      image.row(first), 0,
      static_cast<std::size_t>((image.height() - first) * image.width() * Image::kBytesPerPixel));
}

struct Arrival {
  PngPixelStream& stream;
  std::int64_t rows = 0;
  std::int64_t all_rows = 0;
  Image* to_clear = nullptr;  // before the first row, so that a size alone takes no memory
};

// Called with each row that has arrived as a whole, before it goes into the image.
void count_row(png_structp png, png_row_infop, png_bytep) {
  auto* arrival = static_cast<Arrival*>(::png_get_user_transform_ptr(png));
  if (arrival->rows++ == 0 && arrival->to_clear != nullptr) clear_rows(*arrival->to_clear, 0);
  if (arrival->rows == arrival->all_rows) arrival->stream.end_soon();
}

// Owns libpng's state, so it is freed whatever throws.
class PngReader {
 public:
  explicit PngReader(const EncodedImage& encoded)
      : encoded_(encoded), stream_(encoded.bytes, encoded.tolerate_damage) {
    png_ = ::png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure_, leave, hear_warning);
    TORCH_CHECK(png_ != nullptr, encoded.name, ": libpng could not be started: no memory left");
    guarded([this] {
      info_ = ::png_create_info_struct(png_);
      if (info_ == nullptr) ::png_error(png_, "no memory left");
      ::png_set_read_fn(png_, &stream_, take);
      // The stream has looked at the chunks' checksums.
      ::png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
      if (encoded_.tolerate_damage) ::png_set_option(png_, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
      // max_pixels is the limit, not the sides.
      ::png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
      ::png_read_info(png_, info_);
    });
  }
  ~PngReader() { release(); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  png_structp png() { return png_; }
  png_infop info() { return info_; }
  PngPixelStream& stream() { return stream_; }

  // Runs calls of libpng. An error of theirs jumps out of `calls`, which therefore must own
  // nothing; then this returns false, and `fail` says what it was.
  template <class Calls>
  [[nodiscard]] __attribute__((noinline)) bool tried(const Calls& calls) {
    if (setjmp(failure_.escape) != 0) return false;
    calls();
    return true;
  }
  // The same with an error as an exception.
  template <class Calls>
  void guarded(const Calls& calls) {
    if (!tried(calls)) fail();
  }
  [[nodiscard]] bool has_other_pixels() const { return failure_.has_other_pixels; }
  [[noreturn]] void fail() {
    release();  // a constructor that throws has no destructor
    TORCH_CHECK(false, encoded_.name, ": damaged or unsupported PNG data: ", failure_.text);
    __builtin_unreachable();
  }

 private:
  void release() noexcept {
    if (png_ != nullptr) ::png_destroy_read_struct(&png_, &info_, nullptr);
  }

  const EncodedImage& encoded_;
  PngPixelStream stream_;
  PngFailure failure_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

// How many rows the passes have together; without interlacing those of the image.
std::int64_t rows_of(const ImageHeader& header, int passes) {
  if (passes == 1) return header.height;
  std::int64_t rows = 0;
  for (int pass = 0; pass < passes; ++pass) {
    if (PNG_PASS_COLS(header.width, pass) > 0) rows += PNG_PASS_ROWS(header.height, pass);
  }
  return rows;
}

}  // namespace

ImageHeader read_png_header(const EncodedImage& encoded) {
  PngReader reader(encoded);
  return {ImageFormat::Png, ::png_get_image_height(reader.png(), reader.info()),
          ::png_get_image_width(reader.png(), reader.info())};
}

Image decode_png(const EncodedImage& encoded, const ImageHeader& header) {
  PngReader reader(encoded);
  Image image(header.height, header.width);
  Arrival arrival{.stream = reader.stream()};
  int passes = 1;
  reader.guarded([&] {
    auto* png = reader.png();
    ::png_set_palette_to_rgb(png);
    const auto type = ::png_get_color_type(png, reader.info());
    if ((type & PNG_COLOR_MASK_COLOR) == 0) {
      ::png_set_expand_gray_1_2_4_to_8(png);
      ::png_set_gray_to_rgb(png);
    }
    ::png_set_strip_16(png);
    // Four bytes a pixel; where there is an alpha channel, that is the fourth.
    ::png_set_add_alpha(png, 0xFF, PNG_FILLER_AFTER);
    ::png_set_read_user_transform_fn(png, count_row);
    ::png_set_user_transform_info(png, &arrival, 0, 0);
    // 7 where the image is interlaced: each one adds pixels to the rows, which stay where they are.
    passes = ::png_set_interlace_handling(png);
    ::png_read_update_info(png, reader.info());
    if (::png_get_rowbytes(png, reader.info()) !=
        static_cast<std::size_t>(header.width * Image::kBytesPerPixel)) {
      ::png_error(png, "rows of an unexpected size");
    }
  });
  arrival.all_rows = rows_of(header, passes);
  // What damage leaves out is black; of an interlaced image that may be any of the pixels.
  if (encoded.tolerate_damage && passes > 1) arrival.to_clear = &image;
  const bool is_read = reader.tried([&] {
    for (int pass = 0; pass < passes; ++pass) {
      for (std::int64_t y = 0; y < header.height; ++y) {
        ::png_read_row(reader.png(), image.row(y), nullptr);
      }
    }
  });
  // libpng looks for the end of the data in the same call that gives the last row. What is missing
  // or wrong there, and all that follows, takes nothing from the pixels.
  const bool is_whole = (is_read || arrival.rows == arrival.all_rows) && !reader.has_other_pixels();
  if (!is_whole && (!encoded.tolerate_damage || arrival.rows == 0)) reader.fail();
  if (!is_whole && passes == 1) clear_rows(image, arrival.rows);
  return image;
}

}  // namespace lockstep::data
