// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/transport.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLargestSlot = std::size_t{1} << 20;
// A host with many ranks must not need more than containers usually have in /dev/shm (64 MiB) just
// to start.
constexpr std::size_t kAllSlots = std::size_t{32} << 20;

std::size_t round_up(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

// The counters come first, then the ring buffers for messages.
std::size_t offset_of_slots(int world_size) {
  return round_up(SharedMemoryCounters::bytes_needed(world_size)) +
         round_up(SharedMemoryMessages::bytes_needed(world_size));
}

std::size_t slot_bytes_for(int world_size) {
  const std::size_t share = kAllSlots / (2 * static_cast<std::size_t>(world_size)) / kPage * kPage;
  return std::clamp(share, kPage, kLargestSlot);
}

}  // namespace

std::size_t SharedMemoryTransport::control_bytes(int world_size) {
  return offset_of_slots(world_size) +
         2 * static_cast<std::size_t>(world_size) * slot_bytes_for(world_size);
}

SharedMemoryTransport::SharedMemoryTransport(std::shared_ptr<native::SharedMemory> control,
                                             int rank, int world_size)
    : control_(std::move(control)),
      counters_(control_->data(), rank, world_size),
      messages_(control_->data() + round_up(SharedMemoryCounters::bytes_needed(world_size)),
                counters_),
      slot_bytes_(slot_bytes_for(world_size)),
      slots_(control_->data() + offset_of_slots(world_size)) {}

std::byte* SharedMemoryTransport::slot(int rank, std::uint64_t turn) const {
  return slots_ + (2 * static_cast<std::size_t>(rank) + turn % 2) * slot_bytes_;
}

std::size_t SharedMemoryTransport::block_bytes_for(std::size_t bytes) {
  return std::max(kPage, round_up(bytes));
}

std::byte* SharedMemoryTransport::register_memory(std::shared_ptr<native::SharedMemory> memory,
                                                  std::size_t block_bytes) {
  std::byte* own = memory->data() + static_cast<std::size_t>(rank()) * block_bytes;
  std::erase_if(allocations_, [](const Allocation& one) { return one.memory.expired(); });
  allocations_.push_back({memory, own, block_bytes, ++allocated_, false});
  return own;
}

void SharedMemoryTransport::mark_indexed(const void* data) {
  for (Allocation& one : allocations_) one.is_indexed |= one.own_block == data;
}

std::optional<SharedMemoryTransport::Place> SharedMemoryTransport::find(const void* start,
                                                                        std::size_t bytes,
                                                                        Layout layout) const {
  const auto* data = static_cast<const std::byte*>(start);
  for (const Allocation& one : allocations_) {
    if (one.is_indexed && layout == Layout::SameOnAllRanks) continue;
    if (data < one.own_block || data + bytes > one.own_block + one.block_bytes) continue;
    auto memory = one.memory.lock();
    if (!memory) continue;  // an address may serve again after its allocation was freed
    const auto offset = static_cast<std::size_t>(data - one.own_block);
    return Place{std::move(memory), one.block_bytes, offset, one.number << 40 | offset};
  }
  return std::nullopt;
}

}  // namespace lockstep
