// SPDX-License-Identifier: BSD-3-Clause
// Expected values: torchvision and Pillow, see tests/python/image_fixtures.py.
#include <lockstep/data/images/image_operations.h>

#include <cmath>
#include <utility>

#include "data/images/resize_axis.h"
#include "data/images/resize_kernels.h"
#include "support/loader_test_support.h"
#include "unit/data/images/image_test_support.h"

namespace lockstep::data {
namespace {

TEST(ImageResize, IsWithinOneOfPillowAndTorchvision) {
  for (const auto& each : cases("resize")) {
    const auto expected = expected_image(each, each.number(3), each.number(4));
    const auto found =
        resize(pattern(each.number(1), each.number(2)), each.number(3), each.number(4));
    EXPECT_LE(largest_difference(found, expected), 1) << each.text();
  }
}

TEST(ImageResize, OfAPartIsWithinOneOfTorchvisionsResizedCrop) {
  for (const auto& each : cases("resized_crop")) {
    const auto size = each.number(6);
    const auto expected = expected_image(each, size, size);
    const FractionalBox box{each.real(2), each.real(3), each.real(4), each.real(5)};
    EXPECT_LE(largest_difference(resize(decoded(each.word(1)), box, size, size), expected), 1)
        << each.text();
    const auto bytes = bytes_of(fixture(each.word(1)));
    const auto fused =
        ImageDecoder(bytes, each.word(1))
            .decode_resized({each.number(2), each.number(3), each.number(4), each.number(5)}, size,
                            size, false);
    EXPECT_LE(largest_difference(fused, expected), 1) << each.text();
  }
}

TEST(ImageResize, EveryMachineGivesTheSameBits) {
  const auto& fast = resize_kernels();
  const auto& plain = portable_resize_kernels();
  for (const std::int64_t input : {1, 2, 3, 17, 64, 301}) {
    for (const std::int64_t output : {1, 2, 5, 16, 33, 300}) {
      const auto image = pattern(input, input);
      const ResizeAxis axis(input, 0, static_cast<double>(input), output, ResizeAxis::For::Columns);
      const auto values = static_cast<std::size_t>(output * 4);
      std::vector<std::int16_t> a(values * static_cast<std::size_t>(input));
      std::vector<std::int16_t> b(a.size());
      for (std::int64_t y = 0; y < input; ++y) {
        fast.resize_row(image.row(y), axis, a.data() + static_cast<std::size_t>(y) * values);
        plain.resize_row(image.row(y), axis, b.data() + static_cast<std::size_t>(y) * values);
      }
      EXPECT_EQ(a, b) << input << " to " << output;
      std::vector<std::uint8_t> c(values);
      std::vector<std::uint8_t> d(values);
      for (std::int64_t y = 0; y < output; ++y) {
        const auto* rows = a.data() + static_cast<std::size_t>(axis.first()[y]) * values;
        const auto stride = static_cast<std::int64_t>(values);
        fast.combine_rows(rows, stride, axis.weights(y), axis.taps(), stride, c.data());
        plain.combine_rows(rows, stride, axis.weights(y), axis.taps(), stride, d.data());
        EXPECT_EQ(c, d) << input << " to " << output;
      }
    }
  }
}

TEST(ImageResize, OneColourStaysItself) {
  for (const int value : {0, 1, 127, 255}) {
    Image image(70, 50);
    std::memset(image.row(0), value, 70 * 50 * 4);
    const std::vector<std::pair<int, int>> sizes{{3, 200}, {200, 3}, {1, 1}, {69, 51}};
    for (const auto& [height, width] : sizes) {
      const auto found = resize(image, height, width);
      Image expected(height, width);
      std::memset(expected.row(0), value, static_cast<std::size_t>(height * width * 4));
      EXPECT_EQ(largest_difference(found, expected), 0) << value;
    }
  }
}

TEST(ImageResize, WeightsAddUpHoweverManyThereAre) {
  const ResizeAxis axis(100'000, 0, 100'000, 2, ResizeAxis::For::Rows);
  for (std::int64_t pixel = 0; pixel < axis.size(); ++pixel) {
    std::int64_t sum = 0;
    for (int tap = 0; tap < axis.taps(); ++tap) sum += axis.weights(pixel)[tap];
    EXPECT_EQ(sum, 1 << ResizeAxis::kBits);
  }
  EXPECT_EQ(axis.quad_weights(), nullptr) << "memory that only columns need";
}

TEST(ImageResize, FractionsOfPixelsCountByTheirShare) {
  Image image(1, 4);
  for (int x = 0; x < 4; ++x) std::memset(image.row(0) + 4 * x, 60 * x, 4);
  const auto found = resize(image, {0, 0.5, 1, 2}, 1, 1);
  // The middle is that of the second pixel, so the first and the third count alike.
  EXPECT_EQ(found.row(0)[0], 60);
}

TEST(ImageResize, RefusesWhatCannotBe) {
  const auto image = pattern(4, 5);
  const auto error = [&](const FractionalBox& box) {
    return message_of([&] { static_cast<void>(resize(image, box, 2, 2)); });
  };
  EXPECT_NE(error({0, 0, 4.5, 5}).find("not inside the image of 4 x 5"), std::string::npos);
  EXPECT_NE(error({-0.1, 0, 1, 1}).find("not inside"), std::string::npos);
  EXPECT_NE(error({0, 0, 0, 1}).find("is empty"), std::string::npos);
  EXPECT_NE(error({0, std::nan(""), 1, 1}).find("not inside"), std::string::npos);
  EXPECT_NE(message_of([&] { static_cast<void>(resize(image, 0, 3)); }).find("0 x 3"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(resize(Image(), {0, 0, 1, 1}, 1, 1));
            }).find("no pixels"),
            std::string::npos);
}

TEST(ImageOperations, ColoursAreWithinOneOfTorchvision) {
  for (const auto& each : cases("colour")) {
    auto image = pattern(each.number(3), each.number(4));
    const auto expected = expected_image(each, each.number(3), each.number(4));
    const double factor = each.real(2);
    if (each.word(1) == "brightness") adjust_brightness(image, factor);
    if (each.word(1) == "contrast") adjust_contrast(image, factor);
    if (each.word(1) == "saturation") adjust_saturation(image, factor);
    if (each.word(1) == "hue") adjust_hue(image, factor);
    EXPECT_LE(largest_difference(image, expected), 1) << each.text();
    EXPECT_GT(largest_difference(image, pattern(each.number(3), each.number(4))), 8);
  }
}

TEST(ImageOperations, CropPadAndFlipEqualTorchvision) {
  for (const auto& each : cases("crop")) {
    const ImageBox box{each.number(3), each.number(4), each.number(5), each.number(6)};
    const auto found = crop(pattern(each.number(1), each.number(2)), box);
    EXPECT_EQ(largest_difference(found, expected_image(each, box.height, box.width)), 0)
        << each.text();
  }
  for (const auto& each : cases("pad")) {
    const Padding padding{each.number(4), each.number(5), each.number(6), each.number(7)};
    const auto mode = each.word(3) == "constant"  ? PaddingMode::Constant
                      : each.word(3) == "edge"    ? PaddingMode::Edge
                      : each.word(3) == "reflect" ? PaddingMode::Reflect
                                                  : PaddingMode::Symmetric;
    const auto found = pad(pattern(each.number(1), each.number(2)), padding, {0, 0, 0}, mode);
    EXPECT_EQ(largest_difference(found, expected_image(each, 6 + 1 + 4, 7 + 3 + 2)), 0)
        << each.text();
  }
  for (const auto& each : cases("flip")) {
    auto image = pattern(each.number(2), each.number(3));
    each.word(1) == "horizontal" ? horizontal_flip(image) : vertical_flip(image);
    EXPECT_EQ(largest_difference(image, expected_image(each, each.number(2), each.number(3))), 0);
  }
}

TEST(ImageOperations, RefuseWhatCannotBe) {
  auto image = pattern(4, 5);
  EXPECT_NE(message_of([&] { adjust_brightness(image, -1); }).find("the factor is -1"),
            std::string::npos);
  EXPECT_NE(message_of([&] { adjust_hue(image, 0.6); }).find("at most 0.5"), std::string::npos);
  EXPECT_NE(message_of([&] { adjust_contrast(image, HUGE_VAL); }).find("the factor is inf"),
            std::string::npos);
  const auto padding_error = [&](const Padding& padding, PaddingMode mode) {
    return message_of([&] { static_cast<void>(pad(image, padding, {0, 0, 0}, mode)); });
  };
  EXPECT_NE(padding_error({-1, 0, 0, 0}, PaddingMode::Edge).find("each must be from 0"),
            std::string::npos);
  EXPECT_NE(padding_error({5, 0, 0, 0}, PaddingMode::Reflect).find("cannot be mirrored"),
            std::string::npos);
  EXPECT_NE(padding_error({0, 5, 0, 0}, PaddingMode::Symmetric).find("cannot be mirrored"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(crop(image, {0, 0, 0, 3}));
            }).find("0 x 3"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
