// SPDX-License-Identifier: BSD-3-Clause
#include "datasets.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numbers>
#include <string>

namespace example {
namespace {

using lockstep::data::IdxDataset;

constexpr int64_t kSyntheticTrainSize = 4096;
constexpr int64_t kSyntheticTestSize = 1024;
constexpr double kNoise = 0.5;

constexpr int64_t kFashionMnistClasses = 10;
// Of all training pixels, scaled to 0..1.
constexpr double kFashionMnistMean = 0.2860;
constexpr double kFashionMnistDeviation = 0.3530;

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

int64_t used_size(const ImageDataset& images, const Options& options, const char* name) {
  const auto size = static_cast<int64_t>(images.size().value());
  TORCH_CHECK_VALUE(size > 0, "the ", name, " set in ", options.data, " is empty");
  return std::min(size, options.limit.value_or(size));
}

torch::Tensor stripes(int64_t label, const SyntheticOptions& options) {
  const double angle =
      std::numbers::pi * static_cast<double>(label) / static_cast<double>(options.classes());
  const double frequency = 0.4 + 0.2 * static_cast<double>(label % 3);  // radians a pixel
  const auto position = torch::arange(options.image_size(), torch::kFloat);
  return torch::sin(frequency * (std::cos(angle) * position.unsqueeze(0) +
                                 std::sin(angle) * position.unsqueeze(1)));
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

torch::data::Example<> ImageDataset::get(std::size_t index) {
  return std::visit([index](auto& images) { return images.get(index); }, images_);
}

torch::optional<std::size_t> ImageDataset::size() const {
  return std::visit(
      [](const auto& images) -> torch::optional<std::size_t> { return images.size(); }, images_);
}

void ImageDataset::get_into(std::size_t index, std::span<std::byte> data,
                            std::span<std::byte> target) {
  std::visit([&](auto& images) { images.get_into(index, data, target); }, images_);
}

Datasets open_datasets(const Options& options) {
  const bool synthetic = options.dataset == "synthetic";
  const auto made_up = [&](int64_t size, std::uint64_t seed) -> ImageDataset {
    return SyntheticImages(SyntheticOptions()
                               .size(size)
                               .seed(seed)
                               .classes(options.classes)
                               .channels(options.channels)
                               .image_size(options.image_size));
  };
  auto train = synthetic ? made_up(kSyntheticTrainSize, 1) : open_idx(options.data, "train");
  auto test = synthetic ? made_up(kSyntheticTestSize, 2) : open_idx(options.data, "t10k");
  const auto train_size = used_size(train, options, "training");
  const auto test_size = used_size(test, options, "test");
  return {std::move(train),
          std::move(test),
          train_size,
          test_size,
          synthetic ? options.channels : 1,
          synthetic ? options.classes : kFashionMnistClasses};
}

}  // namespace example
