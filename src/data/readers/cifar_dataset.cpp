// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/readers/cifar_dataset.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <utility>

#include "files/bounded_view.h"

namespace lockstep::data {
namespace {

std::string folder_with(const std::string& folder, const char* inner) {
  const auto below = std::filesystem::path(folder) / inner;
  std::error_code ignored;  // the files' own errors say more
  return std::filesystem::is_directory(below, ignored) ? below.string() : folder;
}

std::string join(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}

void check(const CifarDatasetOptions& options) {
  for (std::size_t c = 0; c < 3; ++c) {
    TORCH_CHECK(std::isfinite(options.mean()[c]), "CifarDatasetOptions: mean of channel ", c,
                " is ", options.mean()[c], "; it must be finite");
    TORCH_CHECK(std::isfinite(options.std()[c]) && options.std()[c] > 0,
                "CifarDatasetOptions: std of channel ", c, " is ", options.std()[c],
                "; it must be finite and greater than 0");
  }
}

}  // namespace

CifarDataset::CifarDataset(const std::vector<std::string>& paths, CifarLabels labels,
                           const CifarDatasetOptions& options)
    : labels_(labels), raw_(options.raw()) {
  check(options);
  TORCH_CHECK(!paths.empty(), "CifarDataset: no files are given; at least 1 is needed");
  const auto record = label_bytes() + kPixels;
  for (const auto& path : paths) {
    auto file = std::make_shared<const files::BoundedView>(path);
    if (file->size() == 0 || file->size() % record != 0) {
      file->fail(
          file->size() / record * record,
          "records of " + std::to_string(record) + " bytes and the end of the file",
          file->size() == 0 ? "an empty file" : std::to_string(file->size() % record) + " bytes");
    }
    size_ += static_cast<std::size_t>(file->size() / record);
    ends_.push_back(size_);
    files_.push_back(std::move(file));
  }
  for (std::size_t c = 0; c < 3; ++c) {
    const auto mean = static_cast<float>(options.mean()[c]);
    const auto deviation = static_cast<float>(options.std()[c]);
    for (std::size_t value = 0; value < 256; ++value) {
      pixel_values_[c][value] = (static_cast<float>(value) / 255.0F - mean) / deviation;
    }
  }
}

CifarDataset CifarDataset::cifar10(const std::string& folder, bool train,
                                   const CifarDatasetOptions& options) {
  const auto where = folder_with(folder, "cifar-10-batches-bin");
  std::vector<std::string> paths;
  if (train) {
    for (int i = 1; i <= 5; ++i) {
      paths.push_back(join(where, "data_batch_" + std::to_string(i) + ".bin"));
    }
  } else {
    paths.push_back(join(where, "test_batch.bin"));
  }
  return {paths, CifarLabels::Cifar10, options};
}

CifarDataset CifarDataset::cifar100(const std::string& folder, bool train,
                                    const CifarDatasetOptions& options, CifarLabels labels) {
  TORCH_CHECK(labels != CifarLabels::Cifar10,
              "CifarDataset: the labels of cifar100 are Cifar100Fine or Cifar100Coarse");
  const auto where = folder_with(folder, "cifar-100-binary");
  return {{join(where, train ? "train.bin" : "test.bin")}, labels, options};
}

CifarDataset::Place CifarDataset::place(std::size_t index) const {
  TORCH_CHECK(index < size_, "CifarDataset: index ", index, " is not below the size ", size_);
  const auto number =
      static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin());
  const auto record = index - (number == 0 ? 0 : ends_[number - 1]);
  return {files_[number].get(), record, record * (label_bytes() + kPixels)};
}

torch::data::Example<> CifarDataset::get(std::size_t index) const {
  auto data = at::empty({3, 32, 32}, raw_ ? at::kByte : at::kFloat);
  auto target = at::empty({}, at::kLong);
  get_into(index, {static_cast<std::byte*>(data.mutable_data_ptr()), data.nbytes()},
           {static_cast<std::byte*>(target.mutable_data_ptr()), target.nbytes()});
  return {std::move(data), std::move(target)};
}

void CifarDataset::get_into(std::size_t index, std::span<std::byte> data,
                            std::span<std::byte> target) const {
  const auto [file, number, offset] = place(index);
  const auto data_bytes = kPixels * (raw_ ? 1 : sizeof(float));
  TORCH_CHECK(data.size() == data_bytes && target.size() == sizeof(std::int64_t),
              "CifarDataset: sample has ", data_bytes, " and ", sizeof(std::int64_t),
              " bytes, the destination ", data.size(), " and ", target.size());
  const auto record = file->bytes(offset, label_bytes() + kPixels, "a record");
  const std::size_t label_at = labels_ == CifarLabels::Cifar100Fine ? 1 : 0;
  const auto label = std::to_integer<std::int64_t>(record[label_at]);
  const std::int64_t classes = labels_ == CifarLabels::Cifar10          ? 10
                               : labels_ == CifarLabels::Cifar100Coarse ? 20
                                                                        : 100;
  if (label >= classes) {
    file->fail(offset + label_at, "a label below " + std::to_string(classes),
               std::to_string(label));
  }
  std::memcpy(target.data(), &label, sizeof(label));
  const auto pixels = record.subspan(label_bytes());
  if (raw_) {
    std::memcpy(data.data(), pixels.data(), kPixels);
    return;
  }
  auto* values = reinterpret_cast<float*>(data.data());
  for (std::size_t c = 0; c < 3; ++c) {
    const auto& table = pixel_values_[c];
    for (std::size_t i = c * kPixels / 3; i < (c + 1) * kPixels / 3; ++i) {
      values[i] = table[std::to_integer<std::size_t>(pixels[i])];
    }
  }
}

void CifarDataset::files_of(std::size_t index, FileParts& parts) const {
  const auto [file, record, offset] = place(index);
  parts.add(file->path(), offset, label_bytes() + kPixels);
}

std::string CifarDataset::describe(std::size_t index) const {
  const auto [file, record, offset] = place(index);
  return file->path() + ": record " + std::to_string(record) + " at byte " + std::to_string(offset);
}

}  // namespace lockstep::data
