// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/images/image_decoder.h>
#include <lockstep/data/images/image_operations.h>

#include <algorithm>
#include <array>
#include <utility>

#include "data/images/exif.h"
#include "data/images/image_orientation.h"
#include "data/images/jpeg_decoder.h"
#include "data/images/png_decoder.h"
#include "data/images/resize_axis.h"
#include "data/images/row_resizer.h"

namespace lockstep::data {
namespace {

constexpr std::array<std::uint8_t, 3> kJpegStart{0xFF, 0xD8, 0xFF};
// What JPEG's header can say. Longer images are of no use to a model, and resizing one takes memory
// for a part of its length.
constexpr std::int64_t kMaxSide = 65535;
constexpr std::array<std::uint8_t, 8> kPngStart{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

template <std::size_t N>
bool starts_with(std::span<const std::byte> bytes, const std::array<std::uint8_t, N>& start) {
  return bytes.size() >= N &&
         std::equal(start.begin(), start.end(), bytes.begin(),
                    [](std::uint8_t a, std::byte b) { return a == static_cast<std::uint8_t>(b); });
}

// What else people keep in folders of images, so that the error can say it.
std::string kind_of(std::span<const std::byte> bytes) {
  const auto is = [&](std::size_t at, std::string_view text) {
    return bytes.size() >= at + text.size() &&
           std::equal(text.begin(), text.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                      [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
  };
  if (bytes.empty()) return "an empty file";
  if (is(0, "GIF8")) return "a GIF file";
  if (is(0, "BM")) return "a BMP file";
  if (is(0, "RIFF") && is(8, "WEBP")) return "a WebP file";
  if (is(0, "II*") || is(0, "MM")) return "a TIFF file";
  if (is(0, "P5") || is(0, "P6")) return "a PPM or PGM file";
  return "something else";
}

ImageFormat format_of(std::span<const std::byte> bytes, std::string_view name) {
  if (starts_with(bytes, kJpegStart)) return ImageFormat::Jpeg;
  if (starts_with(bytes, kPngStart)) return ImageFormat::Png;
  TORCH_CHECK(false, name, ": expected a JPEG or PNG file, found ", kind_of(bytes));
}

FractionalBox as_fractions(const ImageBox& box) {
  return {static_cast<double>(box.top), static_cast<double>(box.left),
          static_cast<double>(box.height), static_cast<double>(box.width)};
}

// A few rows at a time, so that the part is never in memory as a whole.
Image resized_by_rows(JpegReader& reader, std::int64_t height, std::int64_t width) {
  Image result(height, width);
  const auto& box = reader.part();
  const ResizeAxis columns(reader.width(), box.left, box.width, width, ResizeAxis::For::Columns);
  const ResizeAxis rows(reader.rows(), box.top, box.height, height, ResizeAxis::For::Rows);
  RowResizer resizer(rows, columns, result);
  constexpr std::int64_t kRowsAtOnce = 16;
  Image strip(kRowsAtOnce, reader.width());
  for (std::int64_t y = 0; y < rows.end(); y += kRowsAtOnce) {
    const auto count = std::min(kRowsAtOnce, reader.rows() - y);
    reader.read(strip.row(0), count);
    for (auto i = std::max<std::int64_t>(rows.begin() - y, 0); i < count; ++i) {
      resizer.push(strip.row(i));
    }
  }
  return result;
}

}  // namespace

ImageDecoder::ImageDecoder(std::span<const std::byte> bytes, std::string_view name,
                           const ImageDecoderOptions& options)
    : bytes_(bytes), name_(name), options_(options) {
  TORCH_CHECK(options.max_pixels() >= 1 && options.max_pixels() <= Image::kMaxPixels,
              "ImageDecoderOptions: max_pixels is ", options.max_pixels(),
              "; it must be from 1 to ", Image::kMaxPixels);
  header_.format = format_of(bytes, name);
  const EncodedImage encoded{bytes_, name_, options_.tolerate_damage()};
  header_ =
      header_.format == ImageFormat::Jpeg ? read_jpeg_header(encoded) : read_png_header(encoded);
  stored_ = header_;
  TORCH_CHECK(header_.height >= 1 && header_.width >= 1, name, ": the header says ", header_.height,
              " x ", header_.width, " pixels (height x width)");
  TORCH_CHECK(header_.height <= kMaxSide && header_.width <= kMaxSide, name, ": the header says ",
              header_.height, " x ", header_.width, " pixels (height x width); a side may have ",
              kMaxSide, " at most");
  TORCH_CHECK(header_.height <= options.max_pixels() / header_.width, name, ": the header says ",
              header_.height, " x ", header_.width, " pixels (height x width), more than the ",
              options.max_pixels(), " that ImageDecoderOptions::max_pixels allows");
  if (!options.apply_orientation()) return;
  orientation_ = exif_orientation(header_.format, bytes);
  if (ImageOrientation(orientation_).swaps_sides()) std::swap(header_.height, header_.width);
}

Image ImageDecoder::decode_stored() const {
  const EncodedImage encoded{bytes_, name_, options_.tolerate_damage()};
  if (stored_.format == ImageFormat::Png) return decode_png(encoded, stored_);
  JpegReader reader(encoded, {0, 0, stored_.height, stored_.width}, 1);
  Image image(reader.rows(), reader.width());
  reader.read(image.row(0), reader.rows());
  reader.finish();
  return image;
}

Image ImageDecoder::decode() const {
  return ImageOrientation(orientation_).upright(decode_stored());
}

Image ImageDecoder::decode_resized(const ImageBox& part, std::int64_t height, std::int64_t width,
                                   bool may_scale) const {
  TORCH_CHECK(
      part.top >= 0 && part.left >= 0 && part.height >= 1 && part.width >= 1 &&
          part.top <= header_.height - part.height && part.left <= header_.width - part.width,
      name_, ": the part of ", part.height, " x ", part.width, " pixels at ", part.top, ", ",
      part.left, " is empty or not inside the image of ", header_.height, " x ", header_.width);
  if (header_.format == ImageFormat::Png) {
    return resize(decode(), as_fractions(part), height, width);
  }
  const ImageOrientation orientation(orientation_);
  const int scale = may_scale ? jpeg_scale(part, height, width) : 1;
  JpegReader reader({bytes_, name_, options_.tolerate_damage()},
                    orientation.stored(part, stored_.height, stored_.width), scale);
  if (orientation.is_upright()) return resized_by_rows(reader, height, width);
  // A resize goes along the rows first, so its bits depend on which way the image lies.
  Image image(reader.rows(), reader.width());
  reader.read(image.row(0), reader.rows());
  const auto box = orientation.upright(reader.part(), image.height(), image.width());
  return resize(orientation.upright(std::move(image)), box, height, width);
}

}  // namespace lockstep::data
