// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "options.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>

namespace example {

struct SyntheticOptions {
  TORCH_ARG(int64_t, size) = 0;
  TORCH_ARG(int64_t, classes) = 10;
  TORCH_ARG(int64_t, channels) = 1;
  TORCH_ARG(int64_t, image_size) = 28;
  /// Sets with different seeds have different noise on the same patterns.
  TORCH_ARG(std::uint64_t, seed) = 0;
};

/// Noisy stripes whose direction and width tell the class: something to learn without files. An
/// image depends on the options and its index alone, so every process makes the same one.
///
/// Shapes: data [channels, image_size, image_size] float, target scalar int64.
class SyntheticImages : public torch::data::datasets::Dataset<SyntheticImages> {
 public:
  explicit SyntheticImages(const SyntheticOptions& options) : options_(options) {}

  torch::data::Example<> get(std::size_t index) override;
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target);
  [[nodiscard]] torch::optional<std::size_t> size() const override {
    return static_cast<std::size_t>(options_.size());
  }

 private:
  SyntheticOptions options_;
};

/// Files of an image folder: all of them, or some, as evenly spread over the classes as they are.
class FolderImages {
 public:
  FolderImages(lockstep::data::ImageFolder files, std::size_t size)
      : files_(std::move(files)), size_(size) {}

  torch::data::Example<> get(std::size_t index, lockstep::data::SampleRandom& random) const;
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target,
                lockstep::data::SampleRandom& random) const;
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::string describe(std::size_t index) const;

 private:
  [[nodiscard]] std::size_t file(std::size_t index) const { return index * files_.size() / size_; }

  lockstep::data::ImageFolder files_;
  std::size_t size_;
};

/// Whichever images the command line asked for.
class ImageDataset : public torch::data::datasets::Dataset<ImageDataset> {
 public:
  /* implicit */ ImageDataset(lockstep::data::IdxDataset images) : images_(std::move(images)) {}
  /* implicit */ ImageDataset(SyntheticImages images) : images_(std::move(images)) {}
  /* implicit */ ImageDataset(FolderImages images) : images_(std::move(images)) {}

  /// As in epoch 0, with the seed 0.
  torch::data::Example<> get(std::size_t index) override;
  /// What the loader takes: it gives each sample its own random numbers.
  torch::data::Example<> get(std::size_t index, lockstep::data::SampleRandom& random);
  [[nodiscard]] torch::optional<std::size_t> size() const override;
  /// Saves the loader a tensor a sample; see `lockstep::data::WritesInPlaceAtRandom`.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target,
                lockstep::data::SampleRandom& random);
  /// The file of a sample, for messages; nothing where a file holds many.
  [[nodiscard]] std::string describe(std::size_t index) const;

 private:
  std::variant<lockstep::data::IdxDataset, SyntheticImages, FolderImages> images_;
};

/// The two sets, how many images of each to use, and what a model needs to know of them.
struct Datasets {
  ImageDataset train;
  ImageDataset test;
  int64_t train_size;
  int64_t test_size;
  int64_t channels;
  int64_t classes;
};

/// Throws: `c10::Error` for a file that is missing or damaged, a set without images, or folders
/// whose classes differ.
[[nodiscard]] Datasets open_datasets(const Options& options);

}  // namespace example
