// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/images/image.h>
#include <lockstep/data/images/image_header.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::data {

/// What an `ImageDecoder` is told.
struct LOCKSTEP_API ImageDecoderOptions {
  /// Images with more pixels are refused before memory is taken for them; 1 to `Image::kMaxPixels`.
  /// A PNG file takes 4 bytes a pixel while it is decoded, a progressive JPEG file up to 6 (8 with
  /// four inks).
  TORCH_ARG(std::int64_t, max_pixels) = std::int64_t{1} << 27;
  /// Files with more bytes are not read (`read_image` and datasets).
  TORCH_ARG(std::int64_t, max_file_bytes) = std::int64_t{1} << 28;
  /// Gives what can be decoded of a file whose pixels are damaged, such as one that ends too early
  /// (the rest is grey in JPEG, black in PNG) or has wrong codes or checksums. Else that is an
  /// error. Damage beside the pixels never is, such as bytes between two segments of a JPEG file or
  /// anything behind the last pixel of a PNG file.
  TORCH_ARG(bool, tolerate_damage) = false;
  /// Turns and mirrors an image as its EXIF orientation says, so that it is upright. EXIF data that
  /// is damaged or says nothing of it is as none.
  TORCH_ARG(bool, apply_orientation) = false;
};

/// Decodes one JPEG or PNG image; the format is told by the content. Whatever the file holds (grey,
/// palette, CMYK, transparency, 16 bits) becomes red, green and blue of 8 bits, with the values
/// that Pillow's `convert("RGB")` gives; transparency is dropped. Of 16 bits the upper 8 are kept,
/// also of grey, where Pillow cuts off at 255. An EXIF orientation is left alone unless
/// `apply_orientation` asks for it; then sizes and parts are those of the upright image.
///
/// Thread-safety: one thread uses a decoder; several decoders may work at the same time.
/// Owns: nothing; `bytes` and `name` must outlive it.
/// Throws: `c10::Error` naming `name` and what is wrong with the bytes; nothing leaks.
/// Source: libjpeg-turbo (with its default "islow" transform and smooth upsampling, as Pillow) and
/// libpng.
class LOCKSTEP_API ImageDecoder {
 public:
  /// Reads the header.
  /// Throws: when the bytes are no JPEG or PNG file, or say a size beyond `max_pixels` or a side of
  /// more than 65535 pixels.
  ImageDecoder(std::span<const std::byte> bytes, std::string_view name,
               const ImageDecoderOptions& options = {});

  /// What the first bytes say.
  [[nodiscard]] const ImageHeader& header() const noexcept { return header_; }

  /// The whole image.
  /// Throws: `c10::Error` when the pixels are damaged, unless `tolerate_damage`.
  [[nodiscard]] Image decode() const;

  /// Decodes a part of the image and resizes it as `resize` does, with less work and memory than
  /// decoding the whole takes: a baseline JPEG file is decoded only where the part lies, and goes
  /// through the resize a few rows at a time. What lies below the part is not looked at, so damage
  /// there is not seen. For a progressive JPEG file, all coefficients are read first; one that
  /// lacks scans, and a PNG file, are decoded whole. A part that must be turned or mirrored is in
  /// memory before it is resized.
  ///
  /// With `may_scale`, a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size (it holds 8 x 8
  /// frequencies of each block; 4 x 4, 2 x 2 or 1 of them are used) when the part then still has at
  /// least `height` x `width` pixels. Without, the result is that of cropping and resizing the
  /// whole image, bit for bit.
  ///
  /// Throws: as `decode`, and when the part is empty or not inside the image.
  [[nodiscard]] Image decode_resized(const ImageBox& part, std::int64_t height, std::int64_t width,
                                     bool may_scale) const;

 private:
  [[nodiscard]] Image decode_stored() const;

  std::span<const std::byte> bytes_;
  std::string_view name_;
  ImageDecoderOptions options_;
  ImageHeader stored_;   // as the file says
  ImageHeader header_;   // upright, where that was asked for
  int orientation_ = 1;  // EXIF's number of how to get there
};

/// Decodes an image that is in memory.
/// Shapes: uint8 {3, H, W}, contiguous.
/// Throws: `c10::Error` as `ImageDecoder`.
[[nodiscard]] LOCKSTEP_API at::Tensor decode_image(std::span<const std::byte> bytes,
                                                   std::string_view name = "image",
                                                   const ImageDecoderOptions& options = {});

/// Reads and decodes a file.
/// Shapes: uint8 {3, H, W}, contiguous.
/// Throws: `c10::Error` naming the file.
[[nodiscard]] LOCKSTEP_API at::Tensor read_image(const std::string& path,
                                                 const ImageDecoderOptions& options = {});

}  // namespace lockstep::data
