// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/data/samples/sample_tree.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace lockstep::data {

/// Shape and dtype of one tensor of a sample.
struct TensorLayout {
  static constexpr std::size_t kMaxDimensions = 16;

  std::int32_t scalar_type = -1;
  std::uint32_t dimensions = 0;
  std::array<std::int64_t, kMaxDimensions> sizes{};

  /// Throws: `c10::Error` when the tensor cannot lie in memory that is shared (not dense, not on
  /// the CPU). `name` says whose it is.
  [[nodiscard]] static TensorLayout of(const at::Tensor& tensor, const std::string& name);

  [[nodiscard]] at::ScalarType dtype() const noexcept {
    return static_cast<at::ScalarType>(scalar_type);
  }
  [[nodiscard]] at::IntArrayRef shape() const noexcept { return {sizes.data(), dimensions}; }
  [[nodiscard]] std::size_t bytes() const;
  [[nodiscard]] bool operator==(const TensorLayout& other) const = default;
};

/// The structure of a `SampleTree`, and where its leaves lie in a piece of memory. It is used in
/// two ways: for the rows of a batch, where all samples are like the first and each leaf is a
/// column
/// (`of_rows`), and for a batch as a whole, of whatever structure (`of_whole`).
struct SampleLayout {
  enum class Kind : std::uint8_t { Nothing, Tensor, String, Raw, List, Map };

  Kind kind = Kind::Nothing;
  TensorLayout tensor;            // Kind::Tensor
  std::uint64_t offset = 0;       // leaves
  std::uint64_t bytes = 0;        // leaves; of one row where it is a column
  std::vector<std::string> keys;  // Kind::Map
  std::vector<SampleLayout> children;

  /// Columns for `rows` samples like this one; `total` becomes the bytes of the whole, at least 1.
  /// Throws: `c10::Error` naming the part of the sample that cannot have rows, or a size that does
  /// not fit.
  [[nodiscard]] static SampleLayout of_rows(const SampleTree& sample, std::size_t rows,
                                            std::size_t& total);
  /// A place for each leaf; `total` becomes the bytes of the whole.
  [[nodiscard]] static SampleLayout of_whole(const SampleTree& tree, std::size_t& total);

  /// Returns the layout as plain bytes, for another process.
  [[nodiscard]] std::string to_bytes() const;
  /// Throws: `c10::Error` when `bytes` are not what `to_bytes` gave, or a leaf lies outside of a
  /// memory of `memory_bytes`.
  [[nodiscard]] static SampleLayout from_bytes(std::span<const std::byte> bytes,
                                               std::size_t memory_bytes);

  [[nodiscard]] std::string describe() const;
};

/// Copies `sample` into row `row` of the columns.
/// Throws: `c10::Error` with both structures when the sample is not like `layout`.
void write_row(const SampleTree& sample, const SampleLayout& layout, std::byte* memory,
               std::size_t row);

/// Copies the leaves of `tree`, whose layout this is.
void write_whole(const SampleTree& tree, const SampleLayout& layout, std::byte* memory);

/// Makes a tensor of memory: `offset` bytes from its start.
using MakeTensor =
    std::function<at::Tensor(std::byte* place, at::IntArrayRef sizes, at::ScalarType)>;

/// The batch of the first `rows` rows; its tensors lie in `memory`.
[[nodiscard]] SampleTree read_rows(const SampleLayout& layout, std::byte* memory, std::size_t rows,
                                   const MakeTensor& make);
/// What `write_whole` wrote; its tensors lie in `memory`, strings and bytes are copied.
[[nodiscard]] SampleTree read_whole(const SampleLayout& layout, std::byte* memory,
                                    const MakeTensor& make);

}  // namespace lockstep::data
