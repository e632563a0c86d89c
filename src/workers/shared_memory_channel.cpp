// SPDX-License-Identifier: BSD-3-Clause
// Step 4 of the way of a sample: the words that the rank and its workers pass each other. Before
// it: worker_pool starts the workers. After it: batch_worker builds the batches.
#include "workers/shared_memory_channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include "native/posix/futex.h"
#include "native/posix/posix_check.h"

namespace lockstep::workers {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::uint32_t kStateBits = 8;
constexpr std::uint32_t kStateMask = (1U << kStateBits) - 1;
// How long a process may sleep before it looks around by itself: a lost wake-up costs no more than
// this.
constexpr std::chrono::milliseconds kSlice{100};

constexpr std::size_t round_up(std::size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

constexpr std::uint32_t word(SlotState state, std::size_t worker = 0) {
  return static_cast<std::uint32_t>(state) | (static_cast<std::uint32_t>(worker) << kStateBits);
}

}  // namespace

struct SharedMemoryChannel::Slot {
  static constexpr std::size_t kMessageBytes = 3072;

  std::atomic<std::uint32_t> state;  // SlotState, and the claimer above kStateBits
  std::atomic<std::uint32_t> cancelled;
  std::atomic<std::uint32_t> progress;
  std::uint32_t count;
  std::atomic<std::uint64_t> sequence;
  std::uint64_t failed_position;
  char message[kMessageBytes];
};

namespace {

std::size_t stride_for(std::size_t slot_bytes, std::size_t items, std::size_t slots) {
  constexpr std::size_t kLargest = std::size_t{1} << 56;
  if (items > kLargest / sizeof(std::int64_t) / slots) {
    native::throw_errno("shared memory for data workers: " + std::to_string(items) +
                            " samples in a batch are too many",
                        ENOMEM);
  }
  return round_up(slot_bytes) + round_up(items * sizeof(std::int64_t));
}

}  // namespace

SharedMemoryChannel::SharedMemoryChannel(const Shape& shape)
    : shape_(shape),
      slot_stride_(stride_for(sizeof(Slot), shape.items_per_slot, shape.slots)),
      ring_(sizeof(BoardHeader) + round_up(shape.workers * sizeof(WorkerRecord)) +
            round_up(shape.user_bytes) + shape.slots * slot_stride_) {
  // Fresh pages of a memfd are zero, which is a valid first value of everything here.
  std::byte* next = ring_.control();
  board_.header = std::construct_at(reinterpret_cast<BoardHeader*>(next));
  next += sizeof(BoardHeader);
  auto* records = reinterpret_cast<WorkerRecord*>(next);
  std::uninitialized_value_construct_n(records, shape.workers);
  board_.workers = {records, shape.workers};
  next += round_up(shape.workers * sizeof(WorkerRecord));
  user_area_ = next;
  slots_ = next + round_up(shape.user_bytes);
  for (std::size_t slot = 0; slot < shape.slots; ++slot) std::construct_at(&at(slot));
}

SharedMemoryChannel::Slot& SharedMemoryChannel::at(std::size_t slot) const noexcept {
  return *reinterpret_cast<Slot*>(slots_ + slot * slot_stride_);
}

std::int64_t* SharedMemoryChannel::items_of(std::size_t slot) const noexcept {
  return reinterpret_cast<std::int64_t*>(slots_ + slot * slot_stride_ + round_up(sizeof(Slot)));
}

SlotState SharedMemoryChannel::state(std::size_t slot) const {
  return static_cast<SlotState>(at(slot).state.load(std::memory_order_acquire) & kStateMask);
}

std::uint64_t SharedMemoryChannel::sequence(std::size_t slot) const {
  return at(slot).sequence.load(std::memory_order_relaxed);
}

std::span<const std::int64_t> SharedMemoryChannel::items(std::size_t slot) const {
  return {items_of(slot), at(slot).count};
}

void SharedMemoryChannel::assign(std::size_t slot, std::uint64_t sequence,
                                 std::span<const std::int64_t> items) {
  Slot& target = at(slot);
  std::copy(items.begin(), items.end(), items_of(slot));
  target.count = static_cast<std::uint32_t>(items.size());
  target.sequence.store(sequence, std::memory_order_relaxed);
  target.cancelled.store(0, std::memory_order_relaxed);
  target.progress.store(0, std::memory_order_relaxed);
  target.state.store(word(SlotState::Assigned), std::memory_order_release);
  wake_workers();
}

bool SharedMemoryChannel::withdraw(std::size_t slot) {
  auto expected = word(SlotState::Assigned);
  return at(slot).state.compare_exchange_strong(expected, word(SlotState::Free),
                                                std::memory_order_acq_rel);
}

void SharedMemoryChannel::cancel(std::size_t slot) {
  at(slot).cancelled.store(1, std::memory_order_relaxed);
}

void SharedMemoryChannel::hold(std::size_t slot) {
  at(slot).state.store(word(SlotState::Held), std::memory_order_relaxed);
}

void SharedMemoryChannel::release(std::size_t slot) noexcept {
  at(slot).state.store(word(SlotState::Free), std::memory_order_release);
}

std::optional<std::size_t> SharedMemoryChannel::claimer(std::size_t slot) const {
  const auto value = at(slot).state.load(std::memory_order_acquire);
  if (static_cast<SlotState>(value & kStateMask) != SlotState::Claimed) return std::nullopt;
  return value >> kStateBits;
}

std::size_t SharedMemoryChannel::finisher(std::size_t slot) const {
  return at(slot).state.load(std::memory_order_relaxed) >> kStateBits;
}

std::size_t SharedMemoryChannel::progress(std::size_t slot) const {
  return at(slot).progress.load(std::memory_order_relaxed);
}

SharedMemoryChannel::Failure SharedMemoryChannel::failure(std::size_t slot) const {
  const Slot& failed = at(slot);
  return {static_cast<std::size_t>(failed.failed_position),
          std::string(failed.message, ::strnlen(failed.message, Slot::kMessageBytes))};
}

std::uint32_t SharedMemoryChannel::done_count() const {
  return board_.header->done.load(std::memory_order_acquire);
}

void SharedMemoryChannel::wait_done(std::uint32_t seen, std::chrono::nanoseconds limit) const {
  native::futex_wait(board_.header->done, seen, std::min<std::chrono::nanoseconds>(limit, kSlice));
}

std::optional<std::size_t> SharedMemoryChannel::try_claim(std::size_t worker) {
  for (;;) {
    std::optional<std::size_t> oldest;
    for (std::size_t slot = 0; slot < shape_.slots; ++slot) {
      if (state(slot) != SlotState::Assigned) continue;
      if (!oldest || sequence(slot) < sequence(*oldest)) oldest = slot;
    }
    if (!oldest) return std::nullopt;
    auto expected = word(SlotState::Assigned);
    if (at(*oldest).state.compare_exchange_strong(expected, word(SlotState::Claimed, worker),
                                                  std::memory_order_acq_rel)) {
      return oldest;
    }
  }
}

std::optional<std::size_t> SharedMemoryChannel::claim(std::size_t worker) {
  while (!is_stopping()) {
    const auto seen = work_count();
    if (auto slot = try_claim(worker)) return slot;
    wait_work(seen, kSlice);
  }
  return std::nullopt;
}

bool SharedMemoryChannel::is_cancelled(std::size_t slot) const {
  return at(slot).cancelled.load(std::memory_order_relaxed) != 0;
}

bool SharedMemoryChannel::is_stopping() const {
  return board_.header->stop.load(std::memory_order_acquire) != 0;
}

void SharedMemoryChannel::set_progress(std::size_t slot, std::size_t items_done) {
  at(slot).progress.store(static_cast<std::uint32_t>(items_done), std::memory_order_relaxed);
}

void SharedMemoryChannel::finish(std::size_t slot) {
  at(slot).state.store(word(SlotState::Ready, finisher(slot)), std::memory_order_release);
  wake_owner();
}

void SharedMemoryChannel::fail(std::size_t slot, std::size_t position, std::string_view message) {
  Slot& failed = at(slot);
  failed.failed_position = position;
  const auto length = std::min(message.size(), Slot::kMessageBytes - 1);
  std::memcpy(failed.message, message.data(), length);
  failed.message[length] = '\0';
  failed.state.store(word(SlotState::Failed, finisher(slot)), std::memory_order_release);
  wake_owner();
}

std::uint32_t SharedMemoryChannel::work_count() const {
  return board_.header->work.load(std::memory_order_acquire);
}

void SharedMemoryChannel::wait_work(std::uint32_t seen, std::chrono::nanoseconds limit) const {
  native::futex_wait(board_.header->work, seen, std::min<std::chrono::nanoseconds>(limit, kSlice));
}

void SharedMemoryChannel::wake_workers() {
  board_.header->work.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(board_.header->work);
}

void SharedMemoryChannel::wake_owner() {
  board_.header->done.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(board_.header->done);
}

}  // namespace lockstep::workers
