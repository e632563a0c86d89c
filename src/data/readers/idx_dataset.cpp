// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <lockstep/data/readers/idx_dataset.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace lockstep::data {

IdxDataset::IdxDataset(const std::string& images_path, const std::string& labels_path,
                       IdxDatasetOptions options)
    : images_(IdxFile(images_path).values()), labels_(IdxFile(labels_path).values()) {
  TORCH_CHECK(std::isfinite(options.mean()), "IdxDatasetOptions: mean is ", options.mean(),
              "; it must be finite");
  TORCH_CHECK(std::isfinite(options.std()) && options.std() > 0, "IdxDatasetOptions: std is ",
              options.std(), "; it must be finite and greater than 0");
  TORCH_CHECK(images_.dim() == 3 && images_.scalar_type() == at::kByte, images_path,
              ": expected images as uint8 {N, H, W}, found ", images_.scalar_type(), ' ',
              images_.sizes());
  TORCH_CHECK(labels_.dim() == 1 && labels_.scalar_type() == at::kByte, labels_path,
              ": expected labels as uint8 {N}, found ", labels_.scalar_type(), ' ',
              labels_.sizes());
  TORCH_CHECK(images_.size(0) == labels_.size(0), images_path, ": holds ", images_.size(0),
              " images, but ", labels_path, " holds ", labels_.size(0), " labels");
  TORCH_CHECK(images_.numel() > 0, images_path, ": holds no pixels, its shape is ",
              images_.sizes());
  count_ = images_.size(0);
  pixels_ = static_cast<std::size_t>(images_.size(1) * images_.size(2));
  const auto mean = static_cast<float>(options.mean());
  const auto deviation = static_cast<float>(options.std());
  for (std::size_t value = 0; value < pixel_values_.size(); ++value) {
    pixel_values_[value] = (static_cast<float>(value) / 255.0F - mean) / deviation;
  }
}

torch::data::Example<> IdxDataset::get(std::size_t index) const {
  auto data = at::empty({1, images_.size(1), images_.size(2)}, at::kFloat);
  auto target = at::empty({}, at::kLong);
  get_into(index, {static_cast<std::byte*>(data.mutable_data_ptr()), data.nbytes()},
           {static_cast<std::byte*>(target.mutable_data_ptr()), target.nbytes()});
  return {std::move(data), std::move(target)};
}

void IdxDataset::get_into(std::size_t index, std::span<std::byte> data,
                          std::span<std::byte> target) const {
  TORCH_CHECK(index < size(), "IdxDataset: index ", index, " is not below the size ", size());
  const std::int64_t label = labels_.const_data_ptr<std::uint8_t>()[index];
  TORCH_CHECK(data.size() == pixels_ * sizeof(float) && target.size() == sizeof(label),
              "IdxDataset: sample has ", pixels_ * sizeof(float), " and ", sizeof(label),
              " bytes, the destination ", data.size(), " and ", target.size());
  const std::uint8_t* source = images_.const_data_ptr<std::uint8_t>() + index * pixels_;
  auto* pixels = reinterpret_cast<float*>(data.data());
  for (std::size_t i = 0; i < pixels_; ++i) pixels[i] = pixel_values_[source[i]];
  std::memcpy(target.data(), &label, sizeof(label));
}

}  // namespace lockstep::data
