// SPDX-License-Identifier: BSD-3-Clause
#include "data/png_decoder.h"

#include <c10/util/Exception.h>
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <utility>

namespace lockstep::data {
namespace {

// Chunks that hold no pixels: comments, profiles. None of them is needed.
constexpr png_alloc_size_t kMaxChunkBytes = png_alloc_size_t{8} << 20;
constexpr int kMaxChunks = 1000;

struct Source {
  const std::byte* next;
  std::size_t left;
};

struct PngFailure {
  std::jmp_buf escape;
  char text[256];
};

[[noreturn]] void leave(png_structp png, png_const_charp text) {
  auto* failure = static_cast<PngFailure*>(::png_get_error_ptr(png));
  std::snprintf(failure->text, sizeof(failure->text), "%s", text);
  std::longjmp(failure->escape, 1);
}

// About chunks without pixels, which are not used.
void ignore_warning(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep target, std::size_t count) {
  auto* source = static_cast<Source*>(::png_get_io_ptr(png));
  if (count > source->left) ::png_error(png, "the file ends too early");
  std::memcpy(target, source->next, count);
  source->next += count;
  source->left -= count;
}

// Owns libpng's state, so it is freed whatever throws.
class PngReader {
 public:
  explicit PngReader(const EncodedImage& encoded)
      : encoded_(encoded), source_{encoded.bytes.data(), encoded.bytes.size()} {
    png_ = ::png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure_, leave, ignore_warning);
    TORCH_CHECK(png_ != nullptr, encoded.name, ": libpng could not be started: no memory left");
    guarded([this] {
      info_ = ::png_create_info_struct(png_);
      if (info_ == nullptr) ::png_error(png_, "no memory left");
      ::png_set_read_fn(png_, &source_, take);
      ::png_set_chunk_malloc_max(png_, kMaxChunkBytes);
      ::png_set_chunk_cache_max(png_, kMaxChunks);
      // max_pixels is the limit, not the sides.
      ::png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
      ::png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
      ::png_read_info(png_, info_);
    });
  }
  ~PngReader() { release(); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  png_structp png() { return png_; }
  png_infop info() { return info_; }

  // Runs calls of libpng. An error of theirs jumps out of `calls`, which therefore must own
  // nothing, and becomes an exception here.
  template <class Calls>
  __attribute__((noinline)) void guarded(const Calls& calls) {
    if (setjmp(failure_.escape) != 0) {
      release();  // a constructor that throws has no destructor
      TORCH_CHECK(false, encoded_.name, ": damaged or unsupported PNG data: ", failure_.text);
    }
    calls();
  }

 private:
  void release() noexcept {
    if (png_ != nullptr) ::png_destroy_read_struct(&png_, &info_, nullptr);
  }

  const EncodedImage& encoded_;
  Source source_;
  PngFailure failure_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

ImageHeader read_png_header(const EncodedImage& encoded) {
  PngReader reader(encoded);
  return {ImageFormat::Png, ::png_get_image_height(reader.png(), reader.info()),
          ::png_get_image_width(reader.png(), reader.info())};
}

Image decode_png(const EncodedImage& encoded, const ImageHeader& header) {
  PngReader reader(encoded);
  Image image(header.height, header.width);
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
    // 7 where the image is interlaced: each one adds pixels to the rows, which stay where they are.
    const int passes = ::png_set_interlace_handling(png);
    ::png_read_update_info(png, reader.info());
    if (::png_get_rowbytes(png, reader.info()) !=
        static_cast<std::size_t>(header.width * Image::kBytesPerPixel)) {
      ::png_error(png, "rows of an unexpected size");
    }
    for (int pass = 0; pass < passes; ++pass) {
      for (std::int64_t y = 0; y < header.height; ++y) ::png_read_row(png, image.row(y), nullptr);
    }
    ::png_read_end(png, nullptr);
  });
  return image;
}

}  // namespace lockstep::data
