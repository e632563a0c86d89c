// SPDX-License-Identifier: BSD-3-Clause
#include "datasets.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace example {
namespace {

namespace fs = std::filesystem;
using lockstep::data::SampleRandom;

// Four copies of one photograph in each of three classes, for training and for the test.
class ImageFolders : public ::testing::Test {
 protected:
  ImageFolders() {
    std::string made = (fs::temp_directory_path() / "example-test-XXXXXX").string();
    if (::mkdtemp(made.data()) == nullptr) throw std::runtime_error("no temporary folder");
    root_ = made;
    for (const auto* part : {"train", "val"}) {
      for (const auto* name : {"ant", "bee", "cow"}) {
        fs::create_directories(root_ / part / name);
        for (int i = 0; i < 4; ++i) {
          fs::copy_file(fs::path(EXAMPLE_TEST_IMAGES) / "rgb_444.jpg",
                        root_ / part / name / (std::to_string(i) + ".jpg"));
        }
      }
    }
  }
  ~ImageFolders() override { fs::remove_all(root_); }

  Options options() const {
    Options options;
    options.dataset = "image-folder";
    options.data = root_.string();
    options.image_size = 14;
    return options;
  }

  fs::path root_;
};

TEST_F(ImageFolders, KnowTheirClassesAndSizes) {
  const auto images = open_datasets(options());
  EXPECT_EQ(images.classes, 3);
  EXPECT_EQ(images.channels, 3);
  EXPECT_EQ(images.train_size, 12);
  EXPECT_EQ(images.test_size, 12);
}

TEST_F(ImageFolders, ALimitTakesFilesOfAllClasses) {
  auto limited = options();
  limited.limit = 6;
  auto images = open_datasets(limited);
  EXPECT_EQ(images.train.size(), 6U);
  std::vector<int64_t> classes;
  for (std::size_t i = 0; i < 6; ++i) classes.push_back(images.train.get(i).target.item<int64_t>());
  EXPECT_EQ(classes, (std::vector<int64_t>{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(images.test.describe(5), (root_ / "val/cow/2.jpg").string());
}

TEST_F(ImageFolders, OnlyTrainingImagesDrawAtRandom) {
  auto images = open_datasets(options());
  const auto sample = [](ImageDataset& from, std::uint64_t seed) {
    SampleRandom random(seed, 0, 0);
    return from.get(0, random).data;
  };
  EXPECT_EQ(sample(images.train, 1).sizes(), (std::vector<int64_t>{3, 14, 14}));
  EXPECT_FALSE(torch::equal(sample(images.train, 1), sample(images.train, 2)));
  EXPECT_TRUE(torch::equal(sample(images.train, 1), sample(images.train, 1)));
  EXPECT_TRUE(torch::equal(sample(images.test, 1), sample(images.test, 2)));
}

// The middle of the whole photograph, with a seventh more around it, in ImageNet's units.
TEST_F(ImageFolders, TestImagesAreTheMiddle) {
  auto images = open_datasets(options());
  SampleRandom random(0, 0, 0);
  const auto whole = lockstep::data::read_image((root_ / "val/ant/0.jpg").string());
  const auto shorter = std::min(whole.size(1), whole.size(2));
  const auto expected = lockstep::data::ImagePipeline(
      lockstep::data::Resize(whole.size(1) * 16 / shorter, whole.size(2) * 16 / shorter),
      lockstep::data::CenterCrop(14))(lockstep::data::Image::from_tensor(whole), random);
  const auto mean = torch::tensor({0.485, 0.456, 0.406}).view({3, 1, 1});
  const auto deviation = torch::tensor({0.229, 0.224, 0.225}).view({3, 1, 1});
  const auto found = images.test.get(0).data * deviation + mean;
  EXPECT_TRUE(torch::allclose(found * 255, expected.to(torch::kFloat), 0, 1e-2));
}

// Loaders write in place; it must be what `get` gives.
TEST_F(ImageFolders, InPlaceIsTheSame) {
  auto images = open_datasets(options());
  SampleRandom one(7, 1, 3);
  SampleRandom other(7, 1, 3);
  const auto expected = images.train.get(3, one);
  const auto data = torch::empty({3, 14, 14});
  const auto target = torch::empty({}, torch::kLong);
  const auto bytes = [](const torch::Tensor& tensor) {
    return std::span(static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes());
  };
  images.train.get_into(3, bytes(data), bytes(target), other);
  EXPECT_TRUE(torch::equal(data, expected.data));
  EXPECT_TRUE(torch::equal(target, expected.target));
}

}  // namespace
}  // namespace example
