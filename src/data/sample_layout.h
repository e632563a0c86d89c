// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/data/example.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace lockstep::data {

/// Shape and dtype of one tensor of a sample, as plain words that may lie in shared memory.
struct TensorLayout {
  static constexpr std::size_t kMaxDimensions = 16;

  std::int32_t scalar_type = -1;  // at::ScalarType; -1: the sample has no such tensor
  std::uint32_t dimensions = 0;
  std::array<std::int64_t, kMaxDimensions> sizes{};

  [[nodiscard]] bool is_present() const noexcept { return scalar_type >= 0; }
  [[nodiscard]] at::ScalarType dtype() const noexcept {
    return static_cast<at::ScalarType>(scalar_type);
  }
  [[nodiscard]] at::IntArrayRef shape() const noexcept { return {sizes.data(), dimensions}; }
  [[nodiscard]] std::size_t bytes() const;
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] bool operator==(const TensorLayout& other) const = default;
};

/// What all samples of a dataset look like; learned from the first sample that is fetched.
struct SampleLayout {
  TensorLayout data;
  TensorLayout target;

  /// Throws: `c10::Error` when a tensor cannot become a row of a batch (undefined data, not dense,
  /// not on the CPU).
  [[nodiscard]] static SampleLayout of(const torch::data::Example<>& sample);

  [[nodiscard]] bool operator==(const SampleLayout& other) const = default;
};

/// Where the two tensors of a batch lie in a piece of memory.
struct BatchLayout {
  SampleLayout sample;
  std::size_t target_offset = 0;
  std::size_t bytes = 0;  // of one batch, a multiple of the page size

  /// Throws: `c10::Error` when a batch of `batch_size` such samples has no size that fits.
  BatchLayout(const SampleLayout& sample_layout, std::size_t batch_size);
};

}  // namespace lockstep::data
