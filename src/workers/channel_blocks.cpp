// SPDX-License-Identifier: BSD-3-Clause
// The channel's word of memory outside of its slots: who made it says so before there is any, so
// that it is given back whoever dies.
#include <algorithm>
#include <stdexcept>

#include "workers/channel_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::workers {

std::size_t SharedMemoryChannel::take_space(std::size_t bytes) {
  return header_->space_taken.fetch_add(native::SharedMemoryRegion::round_up_to_page(bytes),
                                        std::memory_order_relaxed);
}

native::MappedBlock SharedMemoryChannel::make_block(std::size_t slot, std::size_t number,
                                                    std::size_t bytes) {
  if (number >= blocks()) throw std::out_of_range("a task of this channel has no such block");
  free_block(slot, number);
  auto& words = blocks_of(slot)[number];
  const auto size = native::SharedMemoryRegion::round_up_to_page(bytes);
  const auto offset = take_space(size);
  // Said before there is memory, so that it can be given back if this worker dies here.
  words.offset.store(offset, std::memory_order_relaxed);
  words.bytes.store(size | BlockWords::kBeingWritten, std::memory_order_release);
  try {
    region_.reserve(offset, size);
    return region_.map(offset, size);
  } catch (...) {
    free_block(slot, number);
    throw;
  }
}

void SharedMemoryChannel::publish_block(std::size_t slot, std::size_t number) noexcept {
  blocks_of(slot)[number].bytes.fetch_and(~BlockWords::kBeingWritten, std::memory_order_release);
}

std::optional<native::MappedBlock> SharedMemoryChannel::map_block(std::size_t slot,
                                                                  std::size_t number) {
  if (number >= blocks()) return std::nullopt;
  const auto& words = blocks_of(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire);
  if (bytes == 0 || (bytes & (BlockWords::kBeingFreed | BlockWords::kBeingWritten)) != 0)
    return std::nullopt;
  return region_.map(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
                     static_cast<std::size_t>(bytes));
}

// A worker that dies in here leaves a block that nobody reads any more, and that is freed again.
void SharedMemoryChannel::free_block(std::size_t slot, std::size_t number) noexcept {
  if (number >= blocks()) return;
  auto& words = blocks_of(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire) &
                     ~(BlockWords::kBeingFreed | BlockWords::kBeingWritten);
  if (bytes == 0) return;
  words.bytes.store(bytes | BlockWords::kBeingFreed, std::memory_order_relaxed);
  region_.free(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
               static_cast<std::size_t>(bytes));
  words.bytes.store(0, std::memory_order_relaxed);
}

void SharedMemoryChannel::free_blocks(std::size_t slot, std::size_t first) noexcept {
  const auto end = std::min<std::size_t>(blocks(), kItemBlocks + at(slot).count);
  for (auto number = first; number < end; ++number) free_block(slot, number);
}

}  // namespace lockstep::workers
