// SPDX-License-Identifier: BSD-3-Clause
// Stands in place of the decoders where the build has no libraries for them.
#include <c10/util/Exception.h>
#include <lockstep/data/images/image.h>

#include "data/images/jpeg_decoder.h"
#include "data/images/png_decoder.h"

namespace lockstep::data {
namespace {

[[noreturn]] void refuse(std::string_view name) {
  TORCH_CHECK(false, name,
              ": this build of Lockstep decodes no images; libjpeg-turbo and libpng (Debian: "
              "libjpeg62-turbo-dev, libpng-dev) were not found when it was built, or "
              "LOCKSTEP_WITH_IMAGES was OFF");
}

}  // namespace

ImageHeader read_jpeg_header(const EncodedImage& encoded) {
  refuse(encoded.name);
}

ImageHeader read_png_header(const EncodedImage& encoded) {
  refuse(encoded.name);
}

Image decode_png(const EncodedImage& encoded, const ImageHeader& /*header*/) {
  refuse(encoded.name);
}

int jpeg_scale(const ImageBox& /*part*/, std::int64_t /*min_height*/, std::int64_t /*min_width*/) {
  return 1;
}

struct JpegReader::State {};

JpegReader::JpegReader(const EncodedImage& encoded, const ImageBox& /*part*/, int /*scale*/) {
  refuse(encoded.name);
}

JpegReader::~JpegReader() = default;

void JpegReader::read(std::uint8_t* /*target*/, std::int64_t /*count*/) {}

void JpegReader::finish() {}

}  // namespace lockstep::data
