// SPDX-License-Identifier: BSD-3-Clause
// The channel's word of memory outside of its slots: who made it says so before there is any, so
// that it is given back whoever dies.
#include <algorithm>

#include "workers/channel_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::workers {

std::size_t SharedMemoryChannel::take_space(std::size_t bytes) {
  return header_->space_taken.fetch_add(native::MemoryRing::round_up_to_page(bytes),
                                        std::memory_order_relaxed);
}

std::byte* SharedMemoryChannel::make_piece(std::size_t slot, std::size_t number,
                                           std::size_t bytes) {
  free_piece(slot, number);
  auto& words = pieces_of(slot)[number];
  const auto size = native::MemoryRing::round_up_to_page(bytes);
  const auto offset = take_space(size);
  // Said before there is memory, so that it can be given back if this worker dies here.
  words.offset.store(offset, std::memory_order_relaxed);
  words.bytes.store(size, std::memory_order_release);
  ring_.reserve(offset, size);
  return ring_.map(offset, size);
}

Piece SharedMemoryChannel::piece(std::size_t slot, std::size_t number) const {
  const auto& words = pieces_of(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire);
  if ((bytes & PieceWords::kGoing) != 0) return {};
  return {static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
          static_cast<std::size_t>(bytes)};
}

// A worker that dies in here leaves a piece that nobody reads any more, and that is freed again.
void SharedMemoryChannel::free_piece(std::size_t slot, std::size_t number) noexcept {
  auto& words = pieces_of(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire) & ~PieceWords::kGoing;
  if (bytes == 0) return;
  words.bytes.store(bytes | PieceWords::kGoing, std::memory_order_relaxed);
  ring_.free(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
             static_cast<std::size_t>(bytes));
  words.bytes.store(0, std::memory_order_relaxed);
}

void SharedMemoryChannel::free_pieces(std::size_t slot, std::size_t first) noexcept {
  const auto end = std::min<std::size_t>(pieces(), kItemPieces + at(slot).count);
  for (auto number = first; number < end; ++number) free_piece(slot, number);
}

}  // namespace lockstep::workers
