// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/sample_blocks.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <vector>

#include "core/torch_version.h"
#include "data/samples/tree_codec.h"

namespace lockstep::data::detail {
namespace {

using workers::OverflowBlocks;

void collect_tensors(const SampleTree& value, std::vector<at::Tensor>& tensors) {
  if (value.is_tensor()) tensors.push_back(value.tensor());
  if (value.is_list()) {
    for (const auto& child : value.list()) collect_tensors(child, tensors);
  }
  if (value.is_map()) {
    for (const auto& entry : value.map()) collect_tensors(entry.second, tensors);
  }
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && tensor.is_cpu() && !tensor.is_quantized() &&
         !tensor.is_nested() && !tensor._is_zerotensor() && !has_dimension_names(tensor) &&
         tensor.dim() <= static_cast<std::int64_t>(TensorLayout::kMaxDimensions);
}

bool has_standard_strides(const at::Tensor& tensor) {
  std::int64_t expected = 1;
  for (auto dimension = tensor.dim() - 1; dimension >= 0; --dimension) {
    if (tensor.stride(dimension) != expected) return false;
    expected *= std::max<std::int64_t>(tensor.size(dimension), 1);
  }
  return true;
}

bool looks_the_same(const at::Tensor& tensor) {
  return has_standard_strides(tensor) && !tensor.is_conj() && !tensor.is_neg() &&
         !tensor.requires_grad();
}

bool share_memory(const std::vector<at::Tensor>& tensors) {
  std::vector<const void*> storages;
  for (const auto& tensor : tensors) storages.push_back(tensor.storage().unsafeGetStorageImpl());
  std::sort(storages.begin(), storages.end());
  return std::adjacent_find(storages.begin(), storages.end()) != storages.end();
}

}  // namespace

bool can_be_passed_on(const SampleTree& sample, bool for_collate) {
  std::vector<at::Tensor> tensors;
  collect_tensors(sample, tensors);
  if (!std::all_of(tensors.begin(), tensors.end(), is_plain)) return false;
  if (!for_collate) return true;
  return std::all_of(tensors.begin(), tensors.end(), looks_the_same) && !share_memory(tensors);
}

void put_sample(OverflowBlocks& blocks, std::size_t slot, std::size_t position,
                const SampleTree& sample) {
  const TreeCodec bytes(sample);
  const auto number = OverflowBlocks::kFirstItem + position;
  bytes.write(blocks.make(slot, number, bytes.size()).data());
  blocks.publish(slot, number);
}

std::optional<SampleTree> take_sample(OverflowBlocks& blocks, std::size_t slot,
                                      std::size_t position) {
  const auto block = blocks.map(slot, OverflowBlocks::kFirstItem + position);
  if (!block) return std::nullopt;
  return clone(TreeCodec::read(block->data(), block->size(),
                               [](std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
                                 return at::from_blob(place, sizes, at::TensorOptions(dtype));
                               }));
}

}  // namespace lockstep::data::detail
