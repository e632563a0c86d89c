// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lockstep::data {

/// One array in the idx format, the format of MNIST and its relatives; plain or gzip, told apart by
/// content.
///
/// Shapes: up to 8 dimensions, as the header says.
/// Thread-safety: a value; const members may be called from several threads.
/// Source: the format's description on the MNIST page: two zero bytes, type, number of dimensions,
/// dimensions and values in big-endian order.
class LOCKSTEP_API IdxFile {
 public:
  /// No idx file larger than this (uncompressed) is read unless the caller says so.
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{8} << 30;

  /// Reads and checks the whole file. Memory grows with what the file holds, not with what its
  /// header claims.
  ///
  /// Throws: `c10::Error` naming the file, the byte offset (uncompressed), what was expected and
  /// what was found.
  explicit IdxFile(std::string path, std::uint64_t max_bytes = kMaxBytes);

  /// The file's name, as it was given.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// uint8, int8, int16, int32, float32 or float64, on the CPU, contiguous.
  [[nodiscard]] const at::Tensor& values() const noexcept { return values_; }

 private:
  std::string path_;
  at::Tensor values_;
};

/// What an `IdxDataset` is told.
struct LOCKSTEP_API IdxDatasetOptions {
  /// Subtracted from pixels in [0, 1].
  TORCH_ARG(double, mean) = 0.0;
  /// Divides them afterwards; greater than 0.
  TORCH_ARG(double, std) = 1.0;
};

/// Images and labels of two idx files. Images stay uint8 in memory and become float when a sample
/// is asked for.
///
/// Thread-safety: const members may be called from several threads.
class LOCKSTEP_API IdxDataset {
 public:
  /// Reads both files.
  /// Shapes: images uint8 {N, H, W}, labels uint8 {N}.
  /// Throws: `c10::Error` as `IdxFile`, and when the two files do not fit each other or hold
  /// nothing.
  IdxDataset(const std::string& images_path, const std::string& labels_path,
             IdxDatasetOptions options = {});

  /// One image and its label.
  /// Shapes: data float32 {1, H, W}, target int64 {}.
  /// Throws: `c10::Error` when `index` is not below `size()`.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;

  /// Writes what `get(index)` would return straight to where it belongs.
  /// Throws: as `get`, and when a destination has another size than the sample.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const;

  /// Samples.
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(count_); }
  /// All images.
  /// Shapes: uint8 {N, H, W}.
  [[nodiscard]] const at::Tensor& images() const noexcept { return images_; }
  /// All labels.
  /// Shapes: uint8 {N}.
  [[nodiscard]] const at::Tensor& labels() const noexcept { return labels_; }

 private:
  at::Tensor images_;
  at::Tensor labels_;
  std::int64_t count_ = 0;
  std::size_t pixels_ = 0;                 // of one image
  std::array<float, 256> pixel_values_{};  // what each uint8 value becomes
};

}  // namespace lockstep::data
