// SPDX-License-Identifier: BSD-3-Clause
// The snippets of docs/image_data.md, as parts of programs. check_snippets.py compares each `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/data/images/image_folder.h>
#include <lockstep/data/images/mixup.h>
#include <lockstep/data/loader/data_loader.h>
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace {

struct Folder {
  std::filesystem::path root;
  Folder() {
    std::string made = (std::filesystem::temp_directory_path() / "image-page-XXXXXX").string();
    if (::mkdtemp(made.data()) == nullptr) throw std::runtime_error("no temporary folder");
    root = made;
    const std::filesystem::path images(LOCKSTEP_IMAGE_FIXTURES);
    for (const auto* name : {"cat", "dog"}) {
      std::filesystem::create_directories(root / name);
      std::filesystem::copy_file(images / "rgb_420.jpg", root / name / "1.jpg");
      std::filesystem::copy_file(images / "rgb.png", root / name / "2.png");
    }
  }
  ~Folder() { std::filesystem::remove_all(root); }
};

// [own_step]
struct Invert : lockstep::data::ImageTransform {
  lockstep::data::Image apply(lockstep::data::Image image, lockstep::data::SampleRandom& random) const override {
    if (!random.bernoulli(0.1)) return image;
    auto* bytes = image.row(0);
    for (std::int64_t i = 0; i < image.pixels() * lockstep::data::Image::kBytesPerPixel; ++i) {
      bytes[i] = static_cast<std::uint8_t>(255 - bytes[i]);
    }
    return image;
  }
};
// [own_step]

void train(const torch::Tensor& data, const torch::Tensor& target) {
  EXPECT_EQ(data.sizes(), (std::vector<std::int64_t>{4, 3, 224, 224}));
  EXPECT_EQ(target.sizes(), (std::vector<std::int64_t>{4}));
}

TEST(ImagePage, Trains) {
  const Folder files;
  const auto root = files.root.string();
  const int size = 1, rank = 0;
  // [train]
  using namespace lockstep::data;

  ImageFolder images(root, ImagePipeline(
      RandomResizedCrop(224), RandomHorizontalFlip(),
      Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225})));

  DataLoader loader(images, DistributedSampler(images.size(), size, rank),
                    DataLoaderOptions().batch_size(64).workers(2));
  for (int epoch = 0; epoch < 2; ++epoch) {
    loader.set_epoch(epoch);            // another order, other crops; without it the same ones again
    for (auto& batch : loader) {
      train(batch.data, batch.target);  // float {64, 3, 224, 224}, int64 {64}
    }
  }
  // [train]
  // [evaluate]
  ImagePipeline evaluation(Resize(256), CenterCrop(224), Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}));
  // [evaluate]
  // [upright]
  ImageFolder upright(root, evaluation,
      ImageFolderOptions().decoder(ImageDecoderOptions().apply_orientation(true)));
  // [upright]
  EXPECT_EQ(upright.size(), images.size());
  SampleRandom random(0, 0, 0);
  // [one_file]
  torch::Tensor tensor = read_image(root + "/cat/1.jpg");    // uint8 {3, H, W}
  torch::Tensor sample = evaluation(Image::from_tensor(tensor), random);
  // [one_file]
  EXPECT_EQ(sample.size(1), 224);
  // [jitter]
  ImagePipeline strong(RandomResizedCrop(224), RandomHorizontalFlip(),
      ColorJitter(ColorJitterOptions().brightness(0.4).contrast(0.4).saturation(0.4).hue(0.1)),
      Invert(),
      ToFloat(),
      RandomErasing(RandomErasingOptions().probability(0.25).noise(true)));
  // [jitter]
  EXPECT_EQ(strong(Image::from_tensor(tensor), random).size(2), 224);
  const std::int64_t epoch = 0;
  std::int64_t step = 0;
  torch::data::Example<> batch{torch::rand({4, 3, 8, 8}), torch::tensor({0, 1, 1, 0}, torch::kLong)};
  // [mix]
  CutMix mix(/*classes=*/2, /*alpha=*/1.0);
  SampleRandom numbers(/*seed=*/1234 + rank, epoch, step++);  // another seed than the loader's
  auto mixed = mix(batch, numbers);                           // mixed.target: float {64, 2}
  // [mix]
  EXPECT_EQ(mixed.target.size(1), 2);
  // [exact]
  RandomResizedCrop exact(224, RandomResizedCropOptions().scaled_decode(false));
  // [exact]
  static_cast<void>(exact);
}

}  // namespace
