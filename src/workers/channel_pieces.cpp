// SPDX-License-Identifier: BSD-3-Clause
// The channel's word of memory outside of its slots: who made it says so before there is any, so
// that it is given back whoever dies.
#include <algorithm>
#include <stdexcept>

#include "workers/channel_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::workers {

std::size_t SharedMemoryChannel::take_space(std::size_t bytes) {
  return header_->space_taken.fetch_add(native::MemoryRing::round_up_to_page(bytes),
                                        std::memory_order_relaxed);
}

native::MappedPiece SharedMemoryChannel::make_piece(std::size_t slot, std::size_t number,
                                                    std::size_t bytes) {
  if (number >= pieces()) throw std::out_of_range("a task of this channel has no such piece");
  free_piece(slot, number);
  auto& words = pieces_of(slot)[number];
  const auto size = native::MemoryRing::round_up_to_page(bytes);
  const auto offset = take_space(size);
  // Said before there is memory, so that it can be given back if this worker dies here.
  words.offset.store(offset, std::memory_order_relaxed);
  words.bytes.store(size | PieceWords::kComing, std::memory_order_release);
  try {
    ring_.reserve(offset, size);
    return ring_.map(offset, size);
  } catch (...) {
    free_piece(slot, number);
    throw;
  }
}

void SharedMemoryChannel::publish_piece(std::size_t slot, std::size_t number) noexcept {
  pieces_of(slot)[number].bytes.fetch_and(~PieceWords::kComing, std::memory_order_release);
}

std::optional<native::MappedPiece> SharedMemoryChannel::map_piece(std::size_t slot,
                                                                  std::size_t number) {
  if (number >= pieces()) return std::nullopt;
  const auto& words = pieces_of(slot)[number];
  const auto bytes = words.bytes.load(std::memory_order_acquire);
  if (bytes == 0 || (bytes & (PieceWords::kGoing | PieceWords::kComing)) != 0) return std::nullopt;
  return ring_.map(static_cast<std::size_t>(words.offset.load(std::memory_order_relaxed)),
                   static_cast<std::size_t>(bytes));
}

// A worker that dies in here leaves a piece that nobody reads any more, and that is freed again.
void SharedMemoryChannel::free_piece(std::size_t slot, std::size_t number) noexcept {
  if (number >= pieces()) return;
  auto& words = pieces_of(slot)[number];
  const auto bytes =
      words.bytes.load(std::memory_order_acquire) & ~(PieceWords::kGoing | PieceWords::kComing);
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
