// SPDX-License-Identifier: BSD-3-Clause
#include "datasets.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numbers>
#include <string>
#include <vector>

namespace example {
namespace {

using lockstep::data::IdxDataset;
using lockstep::data::ImageFolder;
using lockstep::data::SampleRandom;

constexpr int64_t kSyntheticTrainSize = 4096;
constexpr int64_t kSyntheticTestSize = 1024;
constexpr double kNoise = 0.5;

constexpr int64_t kFashionMnistClasses = 10;
// Of all training pixels, scaled to 0..1.
constexpr double kFashionMnistMean = 0.2860;
constexpr double kFashionMnistDeviation = 0.3530;

constexpr int64_t kColours = 3;
// Of ImageNet's training pixels, as everybody takes them.
constexpr lockstep::data::Normalize::Channels kPhotographMean{0.485, 0.456, 0.406};
constexpr lockstep::data::Normalize::Channels kPhotographDeviation{0.229, 0.224, 0.225};

// The plain file where there is one, else the compressed one, which is then also the one that an
// error names.
std::string choose_file(const std::string& folder, const std::string& name) {
  const auto path = std::filesystem::path(folder) / name;
  return std::filesystem::exists(path) ? path.string() : path.string() + ".gz";
}

ImageDataset open_idx(const std::string& folder, const std::string& prefix) {
  return IdxDataset(
      choose_file(folder, prefix + "-images-idx3-ubyte"),
      choose_file(folder, prefix + "-labels-idx1-ubyte"),
      lockstep::data::IdxDatasetOptions().mean(kFashionMnistMean).std(kFashionMnistDeviation));
}

void copy_bytes(const torch::Tensor& from, std::span<std::byte> to) {
  TORCH_CHECK(from.nbytes() == to.size(), "a sample of ", from.nbytes(), " bytes has a place of ",
              to.size());
  std::memcpy(to.data(), from.const_data_ptr(), to.size());
}

int64_t used_size(std::size_t available, const Options& options, const char* name) {
  const auto size = static_cast<int64_t>(available);
  TORCH_CHECK_VALUE(size > 0, "the ", name, " set in ", options.data, " is empty");
  return std::min(size, options.limit.value_or(size));
}

Datasets with_sizes(ImageDataset train, ImageDataset test, const Options& options, int64_t channels,
                    int64_t classes) {
  const auto train_size = used_size(train.size().value(), options, "training");
  const auto test_size = used_size(test.size().value(), options, "test");
  return {std::move(train), std::move(test), train_size, test_size, channels, classes};
}

torch::Tensor stripes(int64_t label, const SyntheticOptions& options) {
  const double angle =
      std::numbers::pi * static_cast<double>(label) / static_cast<double>(options.classes());
  const double frequency = 0.4 + 0.2 * static_cast<double>(label % 3);  // radians a pixel
  const auto position = torch::arange(options.image_size(), torch::kFloat);
  return torch::sin(frequency * (std::cos(angle) * position.unsqueeze(0) +
                                 std::sin(angle) * position.unsqueeze(1)));
}

Datasets make_up(const Options& options) {
  const auto images = [&](int64_t size, std::uint64_t seed) -> ImageDataset {
    return SyntheticImages(SyntheticOptions()
                               .size(size)
                               .seed(seed)
                               .classes(options.classes)
                               .channels(options.channels)
                               .image_size(options.image_size));
  };
  return with_sizes(images(kSyntheticTrainSize, 1), images(kSyntheticTestSize, 2), options,
                    options.channels, options.classes);
}

// The usual augmentation of photographs: a random part, perhaps mirrored.
lockstep::data::ImagePipeline training_steps(int64_t side) {
  using namespace lockstep::data;
  return ImagePipeline(RandomResizedCrop(side), RandomHorizontalFlip(),
                       Normalize(kPhotographMean, kPhotographDeviation));
}

// And the usual view of a test: the middle, with a seventh more around it (256 pixels for 224).
lockstep::data::ImagePipeline test_steps(int64_t side) {
  using namespace lockstep::data;
  return ImagePipeline(Resize(side * 8 / 7), CenterCrop(side),
                       Normalize(kPhotographMean, kPhotographDeviation));
}

// A class is a number to the model: both folders must mean the same by it.
void check_classes(const ImageFolder& train, const ImageFolder& test, const Options& options) {
  const auto missing = [](const std::vector<std::string>& from,
                          const std::vector<std::string>& in) {
    const auto found = std::find_if(from.begin(), from.end(), [&](const auto& name) {
      return !std::binary_search(in.begin(), in.end(), name);
    });
    return found == from.end() ? std::string() : *found;
  };
  const auto only_train = missing(train.classes(), test.classes());
  const auto only_test = missing(test.classes(), train.classes());
  TORCH_CHECK_VALUE(only_train.empty() && only_test.empty(), options.data,
                    ": train and val must hold the same classes, but '",
                    only_train.empty() ? only_test : only_train, "' is only in ",
                    only_train.empty() ? "val" : "train");
}

Datasets open_folders(const Options& options) {
  const std::filesystem::path root(options.data);
  const ImageFolder train((root / "train").string(), training_steps(options.image_size));
  const ImageFolder test((root / "val").string(), test_steps(options.image_size));
  check_classes(train, test, options);
  const auto limited = [&](const ImageFolder& files, const char* name) {
    return FolderImages(files, static_cast<std::size_t>(used_size(files.size(), options, name)));
  };
  return with_sizes(limited(train, "training"), limited(test, "test"), options, kColours,
                    static_cast<int64_t>(train.classes().size()));
}

}  // namespace

torch::data::Example<> SyntheticImages::get(std::size_t index) {
  const auto label = static_cast<int64_t>(index) % options_.classes();
  // A generator a sample: the global one has another state in every process.
  auto generator = at::make_generator<at::CPUGeneratorImpl>(options_.seed() * 1'000'003 + index);
  const auto noise =
      torch::randn({options_.channels(), options_.image_size(), options_.image_size()}, generator);
  return {stripes(label, options_) + kNoise * noise, torch::tensor(label)};
}

void SyntheticImages::get_into(std::size_t index, std::span<std::byte> data,
                               std::span<std::byte> target) {
  const auto sample = get(index);
  copy_bytes(sample.data, data);
  copy_bytes(sample.target, target);
}

torch::data::Example<> FolderImages::get(std::size_t index, SampleRandom& random) const {
  return files_.get(file(index), random);
}

void FolderImages::get_into(std::size_t index, std::span<std::byte> data,
                            std::span<std::byte> target, SampleRandom& random) const {
  files_.get_into(file(index), data, target, random);
}

std::string FolderImages::describe(std::size_t index) const {
  return files_.describe(file(index));
}

torch::data::Example<> ImageDataset::get(std::size_t index) {
  SampleRandom random(0, 0, static_cast<int64_t>(index));
  return get(index, random);
}

torch::data::Example<> ImageDataset::get(std::size_t index, SampleRandom& random) {
  return std::visit(
      [&](auto& images) {
        if constexpr (requires { images.get(index, random); }) {
          return images.get(index, random);
        } else {
          return images.get(index);
        }
      },
      images_);
}

torch::optional<std::size_t> ImageDataset::size() const {
  return std::visit(
      [](const auto& images) -> torch::optional<std::size_t> { return images.size(); }, images_);
}

void ImageDataset::get_into(std::size_t index, std::span<std::byte> data,
                            std::span<std::byte> target, SampleRandom& random) {
  std::visit(
      [&](auto& images) {
        if constexpr (requires { images.get_into(index, data, target, random); }) {
          images.get_into(index, data, target, random);
        } else {
          images.get_into(index, data, target);
        }
      },
      images_);
}

std::string ImageDataset::describe(std::size_t index) const {
  const auto* folder = std::get_if<FolderImages>(&images_);
  return folder != nullptr ? folder->describe(index) : std::string();
}

Datasets open_datasets(const Options& options) {
  if (options.dataset == "synthetic") return make_up(options);
  if (options.dataset == "image-folder") return open_folders(options);
  auto train = open_idx(options.data, "train");
  auto test = open_idx(options.data, "t10k");
  return with_sizes(std::move(train), std::move(test), options, 1, kFashionMnistClasses);
}

}  // namespace example
