// SPDX-License-Identifier: BSD-3-Clause
#include "workers/channel_layout.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>

#include "native/posix/posix_check.h"

namespace lockstep::workers {
namespace {

constexpr std::size_t kMaxFailures = 34;
constexpr std::size_t kLargestSlots = std::size_t{1} << 56;

}  // namespace

struct ChannelLayout::Header {
  static constexpr std::uint64_t kMagic = 0x4c53'4461'7461'3036;

  std::uint64_t control_bytes;  // first: SharedMemoryRegion reads it
  std::uint64_t magic;
  ChannelShape shape;
  std::atomic<std::uint64_t> space_taken;  // of what lies behind the control part
  std::atomic<std::uint64_t> slots_used;
};

std::size_t ChannelLayout::failures_of(const ChannelShape& shape) noexcept {
  return std::min({shape.items_per_slot, shape.workers + 2, kMaxFailures});
}

std::size_t ChannelLayout::blocks_of(const ChannelShape& shape) noexcept {
  return 1 + (shape.has_item_blocks ? shape.items_per_slot : 0);
}

ChannelLayout::Parts::Parts(const ChannelShape& shape)
    : chunks(round_up((failures_of(shape) + 1) * sizeof(FailureRecord))),
      ends(chunks + round_up((shape.items_per_slot + 1) * sizeof(std::atomic<std::uint32_t>))),
      items(ends + round_up((shape.items_per_slot + 1) * sizeof(std::uint32_t))),
      blocks(items + round_up(shape.items_per_slot * sizeof(std::int64_t))),
      stride(blocks + round_up(blocks_of(shape) * sizeof(BlockWords))) {}

std::size_t ChannelLayout::bytes_for(const ChannelShape& shape) {
  const auto per_item = sizeof(std::int64_t) + sizeof(std::atomic<std::uint32_t>) +
                        sizeof(std::uint32_t) + (shape.has_item_blocks ? sizeof(BlockWords) : 0);
  if (shape.items_per_slot > kLargestSlots / per_item / shape.slots) {
    native::throw_errno("shared memory for data workers: " + std::to_string(shape.items_per_slot) +
                            " samples in a batch are too many",
                        ENOMEM);
  }
  return round_up(sizeof(Header)) + sizeof(PoolEventWords) +
         round_up(shape.workers * sizeof(WorkerRecord)) + round_up(shape.user_bytes) +
         shape.slots * (round_up(sizeof(SlotWords)) + Parts(shape).stride);
}

ChannelLayout ChannelLayout::create(std::span<std::byte> control, const ChannelShape& shape) {
  auto* header = std::construct_at(reinterpret_cast<Header*>(control.data()));
  header->control_bytes = control.size();
  header->magic = Header::kMagic;
  header->shape = shape;
  const ChannelLayout layout(control.data(), shape);
  layout.construct();
  return layout;
}

ChannelLayout ChannelLayout::open(std::span<std::byte> control) {
  const auto* header = reinterpret_cast<const Header*>(control.data());
  if (control.size() < sizeof(Header) || header->magic != Header::kMagic) {
    native::throw_errno("shared memory for data workers: the rank runs another program", EPROTO);
  }
  return {control.data(), header->shape};
}

ChannelLayout::ChannelLayout(std::byte* control, const ChannelShape& shape)
    : shape_(shape),
      parts_(shape),
      header_(reinterpret_cast<Header*>(control)),
      events_(reinterpret_cast<PoolEventWords*>(control + round_up(sizeof(Header)))),
      workers_(reinterpret_cast<WorkerRecord*>(reinterpret_cast<std::byte*>(events_) +
                                               sizeof(PoolEventWords))),
      user_area_(reinterpret_cast<std::byte*>(workers_) +
                 round_up(shape.workers * sizeof(WorkerRecord))),
      slots_(user_area_ + round_up(shape.user_bytes)),
      slot_parts_(slots_ + shape.slots * round_up(sizeof(SlotWords))) {}

// Fresh pages of a memfd are zero, which is a valid first value of everything here.
void ChannelLayout::construct() const {
  std::construct_at(events_);
  std::uninitialized_value_construct_n(workers_, shape_.workers);
  for (std::size_t number = 0; number < shape_.slots; ++number) {
    std::construct_at(&slot(number));
    std::uninitialized_value_construct_n(chunks(number), chunks_per_slot());
    std::uninitialized_value_construct_n(failures(number), failures_per_slot() + 1);
    std::uninitialized_value_construct_n(blocks(number), blocks_per_slot());
  }
}

std::atomic<std::uint64_t>& ChannelLayout::space_taken() const noexcept {
  return header_->space_taken;
}

std::atomic<std::uint64_t>& ChannelLayout::slots_used() const noexcept {
  return header_->slots_used;
}

}  // namespace lockstep::workers
