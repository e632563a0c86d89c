// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/arena_layout.h"

#include <algorithm>

namespace lockstep {
namespace {

constexpr std::size_t kCacheLineBytes = 64;

// Spare memory is for gradients that are made beside temporary tensors of their size, as oneDNN
// needs them. Very large ones, those of embeddings, need none.
constexpr std::size_t kMuchSpare = std::size_t{64} << 20;

}  // namespace

std::size_t ArenaLayout::padded(std::size_t bytes) {
  return (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

ArenaLayout ArenaLayout::of(const std::vector<std::size_t>& gradients) {
  ArenaLayout layout;
  std::size_t largest = 0;
  for (const std::size_t bytes : gradients) {
    const auto known = std::find_if(layout.sizes.begin(), layout.sizes.end(),
                                    [&](const auto& size) { return size.bytes == bytes; });
    layout.size_of.push_back(static_cast<std::size_t>(known - layout.sizes.begin()));
    if (known == layout.sizes.end()) layout.sizes.push_back({.bytes = bytes});
    ++layout.sizes[layout.size_of.back()].blocks;
    largest = std::max(largest, bytes);
  }
  std::size_t blocks = 0;
  for (auto& size : layout.sizes) {
    size.first = blocks;
    size.begin = layout.bytes;
    blocks += size.blocks;
    layout.bytes += size.blocks * padded(size.bytes);
  }
  layout.spare_begin = layout.bytes;
  layout.bytes += padded(std::max(largest, std::min(3 * largest, kMuchSpare)));
  return layout;
}

}  // namespace lockstep
