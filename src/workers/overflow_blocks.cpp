// SPDX-License-Identifier: BSD-3-Clause
#include "workers/overflow_blocks.h"

#include <algorithm>
#include <stdexcept>

#include "native/posix/page_size.h"

namespace lockstep::workers {

std::size_t OverflowBlocks::take_space(std::size_t bytes) {
  return layout_.space_taken().fetch_add(native::round_up_to_page(bytes),
                                         std::memory_order_relaxed);
}

native::MappedBlock OverflowBlocks::make(std::size_t slot, std::size_t number, std::size_t bytes) {
  if (number >= layout_.blocks_per_slot()) {
    throw std::out_of_range("a task of this channel has no such block");
  }
  free(slot, number);
  auto& words = layout_.blocks(slot)[number];
  const auto size = native::round_up_to_page(bytes);
  const auto offset = take_space(size);
  // Said before there is memory, so that it can be given back if this worker dies here.
  words.offset.store(offset, std::memory_order_relaxed);
  words.bytes.store(size | BlockWords::kBeingWritten, std::memory_order_release);
  try {
    region_.reserve(offset, size);
    return region_.map(offset, size);
  } catch (...) {
    free(slot, number);
    throw;
  }
}

void OverflowBlocks::publish(std::size_t slot, std::size_t number) noexcept {
  layout_.blocks(slot)[number].bytes.fetch_and(~BlockWords::kBeingWritten,
                                               std::memory_order_release);
}

std::optional<native::MappedBlock> OverflowBlocks::map(std::size_t slot, std::size_t number) {
  if (number >= layout_.blocks_per_slot()) return std::nullopt;
  const auto& words = layout_.blocks(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire);
  if (bytes == 0 || (bytes & (BlockWords::kBeingFreed | BlockWords::kBeingWritten)) != 0) {
    return std::nullopt;
  }
  return region_.map(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
                     static_cast<std::size_t>(bytes));
}

// A worker that dies in here leaves a block that nobody reads any more, and that is freed again.
void OverflowBlocks::free(std::size_t slot, std::size_t number) noexcept {
  if (number >= layout_.blocks_per_slot()) return;
  auto& words = layout_.blocks(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire) &
                     ~(BlockWords::kBeingFreed | BlockWords::kBeingWritten);
  if (bytes == 0) return;
  words.bytes.store(bytes | BlockWords::kBeingFreed, std::memory_order_relaxed);
  region_.free(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
               static_cast<std::size_t>(bytes));
  words.bytes.store(0, std::memory_order_relaxed);
}

void OverflowBlocks::free_all(std::size_t slot, std::size_t first) noexcept {
  const auto end =
      std::min<std::size_t>(layout_.blocks_per_slot(), kFirstItem + layout_.slot(slot).count);
  for (auto number = first; number < end; ++number) free(slot, number);
}

void OverflowBlocks::forget_result(std::size_t slot) noexcept {
  layout_.blocks(slot)[kResult].bytes.store(0, std::memory_order_relaxed);
}

}  // namespace lockstep::workers
