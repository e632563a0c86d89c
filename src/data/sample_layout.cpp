// SPDX-License-Identifier: BSD-3-Clause
#include "data/sample_layout.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <utility>

namespace lockstep::data {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLargestBatch = std::size_t{1} << 46;

TensorLayout layout_of(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.layout() == at::kStrided && tensor.device().is_cpu() && !tensor.is_quantized(),
              "the sample's ", name, " is a ", tensor.toString(),
              "; it must be a dense tensor on the CPU");
  const auto dimensions = static_cast<std::size_t>(tensor.dim());
  TORCH_CHECK(dimensions <= TensorLayout::kMaxDimensions, "the sample's ", name, " has ",
              dimensions, " dimensions; at most ", TensorLayout::kMaxDimensions, " are possible");
  TensorLayout layout;
  layout.scalar_type = static_cast<std::int32_t>(tensor.scalar_type());
  layout.dimensions = static_cast<std::uint32_t>(dimensions);
  std::copy(tensor.sizes().begin(), tensor.sizes().end(), layout.sizes.begin());
  return layout;
}

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

std::size_t TensorLayout::bytes() const {
  if (!is_present()) return 0;
  std::size_t result = c10::elementSize(dtype());
  for (const auto size : shape()) result *= static_cast<std::size_t>(size);  // a real tensor had it
  return result;
}

std::string TensorLayout::describe() const {
  if (!is_present()) return "nothing";
  std::ostringstream text;
  text << dtype() << ' ' << shape();
  return std::move(text).str();
}

SampleLayout SampleLayout::of(const torch::data::Example<>& sample) {
  TORCH_CHECK(sample.data.defined(), "the sample's data is an undefined tensor");
  SampleLayout layout;
  layout.data = layout_of(sample.data, "data");
  if (sample.target.defined()) layout.target = layout_of(sample.target, "target");
  return layout;
}

BatchLayout::BatchLayout(const SampleLayout& sample_layout, std::size_t batch_size)
    : sample(sample_layout) {
  const auto row = std::max(sample.data.bytes(), sample.target.bytes());
  TORCH_CHECK(row == 0 || batch_size <= kLargestBatch / row, "a batch of ", batch_size,
              " samples of ", row, " bytes is too large");
  target_offset = round_up(sample.data.bytes() * batch_size, 64);
  bytes =
      round_up(std::max<std::size_t>(target_offset + sample.target.bytes() * batch_size, 1), kPage);
}

}  // namespace lockstep::data
