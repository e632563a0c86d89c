// SPDX-License-Identifier: BSD-3-Clause
// Of a build without libjpeg-turbo and libpng: everything but decoding is there, and decoding says
// why it is not.
#include <gtest/gtest.h>
#include <lockstep/data/images/image_decoder.h>

#include <array>
#include <string>

namespace lockstep::data {
namespace {

TEST(NoImages, DecodingSaysThatTheBuildHasNone) {
  const std::array jpeg{std::byte{0xff}, std::byte{0xd8}, std::byte{0xff}, std::byte{0xe0}};
  const std::array png{std::byte{0x89}, std::byte{'P'},  std::byte{'N'},  std::byte{'G'},
                       std::byte{'\r'}, std::byte{'\n'}, std::byte{0x1a}, std::byte{'\n'}};
  const auto error_of = [](const auto& bytes, const char* name) -> std::string {
    try {
      const ImageDecoder decoder(bytes, name);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  EXPECT_EQ(error_of(jpeg, "cat.jpg").rfind("cat.jpg: this build of Lockstep decodes no images", 0),
            0U);
  EXPECT_NE(error_of(png, "cat.png").find("libjpeg62-turbo-dev, libpng-dev"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
