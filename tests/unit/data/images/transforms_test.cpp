// SPDX-License-Identifier: BSD-3-Clause
// Expected values: torchvision, see tests/python/image_fixtures.py.
#include <lockstep/data/images/image_pipeline.h>
#include <lockstep/data/images/mixup.h>
#include <lockstep/data/images/transforms.h>

#include <cmath>
#include <map>

#include "support/loader_test_support.h"
#include "unit/data/images/image_test_support.h"

namespace lockstep::data {
namespace {

SampleRandom random_of(std::int64_t sample) {
  return SampleRandom(17, 0, sample);
}

torch::Tensor expected_floats(const Case& of, std::vector<std::int64_t> sizes) {
  auto tensor = torch::empty(sizes);
  EXPECT_LE(of.offset + tensor.nbytes(), expected_bytes().size());
  std::memcpy(tensor.mutable_data_ptr(), expected_bytes().data() + of.offset, tensor.nbytes());
  return tensor;
}

TEST(Transforms, ResizeAndCenterCropAreTorchvisions) {
  auto random = random_of(0);
  for (const auto& each : cases("shorter_side")) {
    const auto found =
        Resize(each.number(3)).apply(pattern(each.number(1), each.number(2)), random);
    EXPECT_LE(largest_difference(found, expected_image(each, each.number(4), each.number(5))), 1)
        << each.text();
  }
  for (const auto& each : cases("center_crop")) {
    const auto found = CenterCrop({each.number(3), each.number(4)})
                           .apply(pattern(each.number(1), each.number(2)), random);
    EXPECT_EQ(largest_difference(found, expected_image(each, each.number(3), each.number(4))), 0)
        << each.text();
  }
  const auto fixed = Resize(3, 7).apply(pattern(9, 5), random);
  EXPECT_EQ(fixed.height(), 3);
  EXPECT_EQ(fixed.width(), 7);
}

TEST(Transforms, RandomResizedCropDrawsAsItSays) {
  const RandomResizedCrop crop_of(8, RandomResizedCropOptions().scale({0.2, 0.6}).ratio({0.5, 2}));
  double area = 0;
  double log_ratio = 0;
  double place = 0;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    auto random = random_of(i);
    const auto box = crop_of.draw_box(300, 400, random);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 300);
    ASSERT_LE(box.left + box.width, 400);
    const double part = static_cast<double>(box.height * box.width) / (300 * 400);
    EXPECT_GT(part, 0.195);
    EXPECT_LT(part, 0.605);
    area += part;
    log_ratio += std::log(static_cast<double>(box.width) / static_cast<double>(box.height));
    place +=
        static_cast<double>(box.left) / std::max<double>(1, static_cast<double>(400 - box.width));
  }
  // Shares that do not fit are drawn again, so the means lean to the small and the wide.
  EXPECT_NEAR(area / kDraws, 0.39, 0.02);
  EXPECT_NEAR(log_ratio / kDraws, 0.06, 0.06);
  EXPECT_NEAR(place / kDraws, 0.5, 0.03);
}

TEST(Transforms, RandomResizedCropTakesTheMiddleWhereNothingFits) {
  auto random = random_of(0);
  const RandomResizedCrop whole(8, RandomResizedCropOptions().scale({1, 1}).ratio({1, 1}));
  EXPECT_EQ(whole.draw_box(10, 35, random), (ImageBox{0, 12, 10, 10}));
  EXPECT_EQ(whole.draw_box(35, 10, random), (ImageBox{12, 0, 10, 10}));
  EXPECT_EQ(whole.draw_box(1, 1, random), (ImageBox{0, 0, 1, 1}));
}

TEST(Transforms, RandomCropPadsAndReachesEveryPlace) {
  const RandomCrop crop_of(4, RandomCropOptions().padding({1, 1, 1, 1}));
  std::map<std::pair<int, int>, int> seen;
  Image image(4, 4);
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 4; ++x) {
      image.row(y)[4 * x] = static_cast<std::uint8_t>(1 + y);
      image.row(y)[4 * x + 1] = static_cast<std::uint8_t>(1 + x);
    }
  }
  for (int i = 0; i < 500; ++i) {
    auto random = random_of(i);
    const auto found = crop_of.apply(image.clone(), random);
    ASSERT_EQ(found.height(), 4);
    // What lies second in both directions is inside wherever the crop is.
    ++seen[{found.row(1)[4], found.row(1)[5]}];
  }
  EXPECT_EQ(seen.size(), 9U);
  for (const auto& [place, times] : seen) EXPECT_GT(times, 25);
  auto random = random_of(0);
  EXPECT_NE(message_of([&] {
              static_cast<void>(RandomCrop(5).apply(image.clone(), random));
            }).find("larger than the padded image of 4 x 4"),
            std::string::npos);
  const auto larger =
      RandomCrop(9, RandomCropOptions().pad_if_needed(true)).apply(image.clone(), random);
  EXPECT_EQ(larger.width(), 9);
}

TEST(Transforms, FlipsHappenAsOftenAsTheyShould) {
  int flipped = 0;
  for (int i = 0; i < 2000; ++i) {
    auto random = random_of(i);
    const auto found = RandomHorizontalFlip(0.3).apply(pattern(2, 3), random);
    auto other = pattern(2, 3);
    horizontal_flip(other);
    const bool is_flipped = largest_difference(found, other) == 0;
    EXPECT_TRUE(is_flipped || largest_difference(found, pattern(2, 3)) == 0);
    flipped += is_flipped ? 1 : 0;
  }
  EXPECT_NEAR(flipped, 600, 80);
  auto random = random_of(0);
  auto other = pattern(3, 2);
  vertical_flip(other);
  EXPECT_EQ(largest_difference(RandomVerticalFlip(1).apply(pattern(3, 2), random), other), 0);
}

TEST(Transforms, ColorJitterUsesItsRangesInRandomOrder) {
  const ColorJitter only_brightness(ColorJitterOptions().brightness(0.5));
  Image grey(1, 1);
  double least = 255;
  double most = 0;
  for (int i = 0; i < 500; ++i) {
    auto random = random_of(i);
    std::memset(grey.row(0), 100, 4);
    grey = only_brightness.apply(std::move(grey), random);
    least = std::min<double>(least, grey.row(0)[0]);
    most = std::max<double>(most, grey.row(0)[0]);
  }
  EXPECT_GE(least, 50);
  EXPECT_LT(least, 53);
  EXPECT_LE(most, 150);
  EXPECT_GT(most, 147);
  const ColorJitter all(
      ColorJitterOptions().brightness(0.4).contrast(0.4).saturation(0.4).hue(0.1));
  auto first = random_of(1);
  auto again = random_of(1);
  auto another = random_of(2);
  const auto found = all.apply(pattern(9, 9), first);
  EXPECT_EQ(largest_difference(found, all.apply(pattern(9, 9), again)), 0);
  EXPECT_GT(largest_difference(found, all.apply(pattern(9, 9), another)), 2);
}

TEST(Transforms, RefuseBadOptions) {
  const auto message = [](const std::function<void()>& call) { return message_of(call); };
  EXPECT_NE(message([] { Resize(0); }).find("Resize: the size is 0"), std::string::npos);
  EXPECT_NE(message([] { CenterCrop(-3); }).find("CenterCrop: the size is -3"), std::string::npos);
  EXPECT_NE(message([] { RandomHorizontalFlip(1.5); }).find("the probability is 1.5"),
            std::string::npos);
  EXPECT_NE(message([] {
              RandomResizedCrop(8, RandomResizedCropOptions().scale({0, 1}));
            }).find("scale is from 0 to 1"),
            std::string::npos);
  EXPECT_NE(message([] {
              RandomResizedCrop(8, RandomResizedCropOptions().ratio({2, 1}));
            }).find("ratio is from 2 to 1"),
            std::string::npos);
  EXPECT_NE(message([] { ColorJitter(ColorJitterOptions().hue(0.7)); }).find("hue is 0.7"),
            std::string::npos);
  EXPECT_NE(message([] {
              Normalize({0, 0, 0}, {1, 0, 1});
            }).find("std of channel 1 is 0"),
            std::string::npos);
  EXPECT_NE(message([] {
              RandomErasing(RandomErasingOptions().scale({0.5, 2}));
            }).find("scale is from 0.5 to 2"),
            std::string::npos);
  EXPECT_NE(message([] {
              RandomCrop(4, RandomCropOptions().padding({0, -1, 0, 0}));
            }).find("none may be negative"),
            std::string::npos);
}

TEST(ImagePipeline, NormalizesToTorchvisionsVeryBits) {
  auto ramp = torch::arange(256, torch::kByte).view({1, 16, 16}).expand({3, 16, 16});
  auto random = random_of(0);
  const auto floats = ImagePipeline(ToFloat())(Image::from_tensor(ramp), random);
  EXPECT_TRUE(torch::equal(floats, expected_floats(cases("to_float").front(), {3, 16, 16})));
  const ImagePipeline normalize(Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}));
  EXPECT_TRUE(torch::equal(normalize(Image::from_tensor(ramp), random),
                           expected_floats(cases("normalize").front(), {3, 16, 16})));
}

TEST(ImagePipeline, WritesWhatItReturns) {
  const auto bytes = bytes_of(fixture("rgb_420.jpg"));
  const ImageDecoder decoder(bytes, "rgb_420.jpg");
  const ImagePipeline pipelines[] = {
      ImagePipeline(), ImagePipeline(RandomResizedCrop(16), RandomHorizontalFlip()),
      ImagePipeline(RandomResizedCrop(16), ColorJitter(ColorJitterOptions().hue(0.1)), ToFloat(),
                    RandomErasing(RandomErasingOptions().probability(1).noise(true)))};
  for (const auto& pipeline : pipelines) {
    auto random = random_of(3);
    const auto tensor = pipeline(decoder, random);
    EXPECT_TRUE(tensor.is_contiguous());
    EXPECT_EQ(tensor.scalar_type(), pipeline.dtype());
    auto written = torch::zeros_like(tensor);
    const std::span target(static_cast<std::byte*>(written.mutable_data_ptr()), written.nbytes());
    auto again = random_of(3);
    pipeline.write(decoder, again, target);
    EXPECT_TRUE(torch::equal(written, tensor));
    const auto message =
        message_of([&] { pipeline.write(decoder, again, target.first(target.size() - 1)); });
    EXPECT_NE(message.find("the destination " + std::to_string(target.size() - 1)),
              std::string::npos)
        << message;
  }
}

// The first step may decode less, but without scaling that must not show.
TEST(ImagePipeline, DecodingOnlyThePartGivesTheSameAsDecodingAll) {
  const auto bytes = bytes_of(fixture("rgb_420.jpg"));
  const ImageDecoder decoder(bytes, "rgb_420.jpg");
  const ImagePipeline exact(RandomResizedCrop(9, RandomResizedCropOptions().scaled_decode(false)));
  const ImagePipeline fused(RandomResizedCrop(9));
  int scaled = 0;
  for (int i = 0; i < 50; ++i) {
    auto a = random_of(i);
    auto b = random_of(i);
    auto c = random_of(i);
    const auto expected = exact(decoder.decode(), b);
    EXPECT_TRUE(torch::equal(exact(decoder, a), expected));
    scaled += torch::equal(fused(decoder, c), expected) ? 0 : 1;
  }
  EXPECT_GT(scaled, 10);
}

TEST(ImagePipeline, RefusesStepsInAnotherOrder) {
  EXPECT_NE(message_of([] {
              ImagePipeline(ToFloat(), RandomHorizontalFlip());
            }).find("it must come before"),
            std::string::npos);
  EXPECT_NE(message_of([] { ImagePipeline(ToFloat(), ToFloat()); }).find("there can be one"),
            std::string::npos);
  EXPECT_NE(message_of([] { ImagePipeline(RandomErasing(), ToFloat()); }).find("must come before"),
            std::string::npos);
  EXPECT_NE(message_of([] {
              ImagePipeline(RandomErasing(RandomErasingOptions().noise(true)));
            }).find("needs floats"),
            std::string::npos);
}

struct Invert : ImageTransform {
  Image apply(Image image, SampleRandom&) const override {
    for (std::int64_t i = 0; i < image.pixels() * 4; ++i) {
      image.row(0)[i] = static_cast<std::uint8_t>(255 - image.row(0)[i]);
    }
    return image;
  }
};

TEST(ImagePipeline, TakesStepsOfThePrograms) {
  auto random = random_of(0);
  const auto tensor = pattern(4, 5).to_tensor();
  EXPECT_TRUE(
      torch::equal(ImagePipeline(Invert())(Image::from_tensor(tensor), random), 255 - tensor));
}

TEST(RandomErasing, ErasesOneRectangleOfTheFinishedSample) {
  const RandomErasing erasing(RandomErasingOptions().probability(1).value({7, 8, 9}));
  for (int i = 0; i < 50; ++i) {
    auto sample = torch::zeros({3, 20, 30});
    auto random = random_of(i);
    erasing.apply({sample.mutable_data_ptr<float>(), nullptr, 20, 30}, random);
    auto again = random_of(i);
    static_cast<void>(again.bernoulli(1));
    const auto box = erasing.draw_box(20, 30, again);
    ASSERT_TRUE(box.has_value());
    auto expected = torch::zeros({3, 20, 30});
    for (int c = 0; c < 3; ++c) {
      expected[c].narrow(0, box->top, box->height).narrow(1, box->left, box->width).fill_(7 + c);
    }
    EXPECT_TRUE(torch::equal(sample, expected));
    const double part = static_cast<double>(box->height * box->width) / 600;
    EXPECT_GT(part, 0.005);
    EXPECT_LT(part, 0.37);
  }
  auto bytes = torch::zeros({3, 9, 9}, torch::kByte);
  auto random = random_of(0);
  erasing.apply({nullptr, bytes.mutable_data_ptr<std::uint8_t>(), 9, 9}, random);
  EXPECT_EQ(bytes[2].max().item<int>(), 9);
}

torch::data::Example<> mixing_batch() {
  return {torch::arange(4 * 2 * 6 * 5, torch::kFloat).view({4, 2, 6, 5}) / 7,
          torch::tensor({2, 0, 1, 2}, torch::kLong)};
}

TEST(MixUp, IsTorchvisionsForEqualNumbers) {
  for (const auto& each : cases("mixup")) {
    const auto mixed = MixUp(3).mix(mixing_batch(), each.real(2));
    const bool is_data = each.word(1) == "data";
    const auto expected =
        is_data ? expected_floats(each, {4, 2, 6, 5}) : expected_floats(each, {4, 3});
    EXPECT_TRUE(torch::allclose(is_data ? mixed.data : mixed.target, expected, 1e-6, 1e-6))
        << each.text();
  }
  const auto soft = MixUp(3).mix(mixing_batch(), 0.3);
  const auto again = MixUp(3).mix(
      {mixing_batch().data, torch::one_hot(mixing_batch().target, 3).to(torch::kFloat)}, 0.3);
  EXPECT_TRUE(torch::equal(soft.target, again.target));
}

TEST(CutMix, IsTorchvisionsForEqualNumbers) {
  for (const auto& each : cases("cutmix")) {
    const auto batch = mixing_batch();
    const auto mixed = CutMix(3).mix(batch, each.real(2), each.number(3), each.number(4));
    const bool is_data = each.word(1) == "data";
    const auto expected =
        is_data ? expected_floats(each, {4, 2, 6, 5}) : expected_floats(each, {4, 3});
    EXPECT_TRUE(torch::allclose(is_data ? mixed.data : mixed.target, expected, 1e-6, 1e-6))
        << each.text();
    EXPECT_TRUE(torch::equal(batch.data, mixing_batch().data)) << "the batch given was changed";
  }
}

TEST(Mixing, DrawsBetaNumbers) {
  for (const double alpha : {0.2, 1.0, 4.0}) {
    double sum = 0;
    double squares = 0;
    constexpr int kDraws = 20'000;
    auto random = random_of(1);
    for (int i = 0; i < kDraws; ++i) {
      const double value = draw_beta(alpha, random);
      ASSERT_GE(value, 0);
      ASSERT_LE(value, 1);
      sum += value;
      squares += (value - 0.5) * (value - 0.5);
    }
    EXPECT_NEAR(sum / kDraws, 0.5, 0.015);
    EXPECT_NEAR(squares / kDraws, 1 / (4 * (2 * alpha + 1)), 0.006);  // Beta's variance
  }
  auto random = random_of(2);
  EXPECT_GE(draw_beta(1e-3, random), 0);
}

TEST(Mixing, RefusesWhatDoesNotFit) {
  const auto batch = mixing_batch();
  auto random = random_of(0);
  EXPECT_NE(message_of([&] {
              static_cast<void>(MixUp(2)(batch, random));
            }).find("the targets are from 0 to 2; they must be from 0 to 1"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(MixUp(3)({batch.data.to(torch::kByte), batch.target}, random));
            }).find("expected floating data"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(MixUp(3).mix({batch.data, batch.target.slice(0, 0, 2)}, 1));
            }).find("as many targets as samples"),
            std::string::npos);
  EXPECT_NE(message_of([&] { static_cast<void>(MixUp(3).mix(batch, 1.5)); }).find("lambda is 1.5"),
            std::string::npos);
  EXPECT_NE(message_of([] { MixUp(3, 0); }).find("alpha is 0"), std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(CutMix(3).mix(batch, 0.5, 6, 0));
            }).find("the pixel 6, 0 is not inside 6 x 5"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(CutMix(3)({torch::zeros({4, 0}), batch.target}, random));
            }).find("{N, ..., H, W}"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
