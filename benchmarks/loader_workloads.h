// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/images/image_folder.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace bench {

/// Samples that cost next to nothing to make, as large as an image for ImageNet's networks: what
/// remains is the way from the worker to the program. data_loader.py has the same.
class SyntheticImages {
 public:
  static constexpr std::size_t kSize = 2560;
  static constexpr std::int64_t kPixels = std::int64_t{3} * 224 * 224;

  // A dataset is not changed by being read.
  // NOLINTNEXTLINE(readability-convert-member-functions-to-static)
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const {
    return {torch::full({3, 224, 224}, value(index)),
            torch::tensor(static_cast<std::int64_t>(index))};
  }
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const {
    std::fill_n(reinterpret_cast<float*>(data.data()), kPixels, value(index));
    const auto label = static_cast<std::int64_t>(index);
    std::memcpy(target.data(), &label, sizeof(label));
  }
  [[nodiscard]] std::size_t size() const { return kSize; }

 private:
  static float value(std::size_t index) { return static_cast<float>(index % 251); }
};

/// The usual way to train on photographs.
inline lockstep::data::ImageFolder photographs(const std::string& root) {
  using namespace lockstep::data;
  return ImageFolder(root, ImagePipeline(RandomResizedCrop(224), RandomHorizontalFlip(),
                                         Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225})));
}

}  // namespace bench
