// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/slot_memory.h"

#include <c10/util/Exception.h>

#include <cstring>

#include "native/posix/page_size.h"

namespace lockstep::data::detail {

using workers::Claim;

bool SlotMemory::is_known() const {
  return shared().turn.load(std::memory_order_acquire) == SharedLayout::kPublished;
}

SampleLayout SlotMemory::layout() const {
  const auto& common = shared();
  const auto* payload = SharedLayout::payload(channel_);
  return SampleLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
}

std::byte* SlotMemory::of(std::size_t slot) {
  const auto& common = shared();
  auto* payload = SharedLayout::payload(channel_);
  const auto offset = common.slot_offset(slot);
  if (!is_reserved_[slot]) {
    reserve(offset, common.slot_bytes);
    is_reserved_[slot] = true;
  }
  return payload + offset;
}

// Each worker begins at a place of its own: those that come to a new slot together share the work.
void SlotMemory::reserve(std::size_t offset, std::size_t bytes) {
  const auto page = native::round_up_to_page(1);
  const auto start = bytes / page * worker_ / channel_.workers() * page;
  channel_.region().reserve_part(offset + start, bytes - start);
  channel_.region().reserve_part(offset, start);
}

SlotMemory::Turn SlotMemory::await_turn(const Claim& claim, std::size_t position) {
  const auto sequence = channel_.sequence(claim.slot);
  while (!channel_.is_futile(claim) && !channel_.events().is_stopping()) {
    const auto seen = channel_.events().work_count();
    const auto turn = shared().turn.load(std::memory_order_acquire);
    if (turn == SharedLayout::kPublished) return Turn::Over;
    if (turn == sequence && is_first(claim.slot, position)) return Turn::Ours;
    channel_.end_item(worker_);  // waiting is not hanging
    if (channel_.give_back_for_older(claim, worker_)) return Turn::GivenBack;
    channel_.wait_for_work(worker_, seen);
  }
  return Turn::Futile;
}

bool SlotMemory::is_first(std::size_t slot, std::size_t position) const {
  for (std::size_t before = 0; before < position; ++before) {
    if (!channel_.items().is_left_out(slot, before)) return false;
  }
  return true;
}

// The compare-and-swap keeps a withdrawn batch's worker from deciding beside the one whose turn it
// is now.
bool SlotMemory::publish_layout(const Claim& claim, const std::string& structure,
                                std::size_t slot_bytes) {
  auto& turn = shared().turn;
  const auto sequence = channel_.sequence(claim.slot);
  auto expected = sequence;
  if (!turn.compare_exchange_strong(expected, SharedLayout::kPublishing | worker_)) return false;
  try {
    allocate(structure, slot_bytes);
  } catch (...) {
    turn.store(sequence, std::memory_order_release);
    throw;
  }
  turn.store(SharedLayout::kPublished, std::memory_order_release);
  channel_.events().wake_workers();
  return true;
}

void SlotMemory::allocate(const std::string& structure, std::size_t slot_bytes) {
  auto& common = shared();
  common.layout_bytes = structure.size();
  common.slot_bytes = native::round_up_to_page(slot_bytes);
  TORCH_CHECK(common.slot_bytes < (std::size_t{1} << 56) / channel_.slots(), "a batch of ",
              slot_bytes, " bytes is too large");
  const auto payload = common.payload_bytes(channel_.slots());
  // The slots follow when they are first written to: the first batch need not wait for all.
  common.payload_offset = channel_.blocks().take_space(payload);
  channel_.region().announce_payload(common.payload_offset, payload);
  if (!structure.empty()) channel_.region().reserve(common.payload_offset, common.slots_offset());
  // Mapping comes last of all that can fail: a worker that tries again may need another size, and
  // the mapping stays.
  auto* memory = SharedLayout::payload(channel_);
  if (!structure.empty()) std::memcpy(memory, structure.data(), structure.size());
}

}  // namespace lockstep::data::detail
