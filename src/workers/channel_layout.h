// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "workers/chunk_state.h"
#include "workers/shared_memory_channel.h"

/// How a channel's control memory is laid out: a header, the table, the user area, the words of all
/// slots side by side, since all are looked at for each task, then what else a slot has: its
/// failure records, the words of its chunks, the items at which workers ended, its items, and where
/// its overflow blocks lie. For the channel's own sources.
namespace lockstep::workers {

constexpr std::size_t kLine = 64;
constexpr std::size_t kMaxFailureRecords = 34;
constexpr int kStateBits = 8;
constexpr std::uint64_t kStateMask = (1U << kStateBits) - 1;

struct SharedMemoryChannel::Header {
  static constexpr std::uint64_t kMagic = 0x4c53'4461'7461'3035;

  std::uint64_t control_bytes;  // first: SharedMemoryRegion reads it
  std::uint64_t magic;
  Shape shape;
  std::atomic<std::uint64_t> space_taken;  // of what lies behind the control part
};

/// How a task is cut. In one word, so that who still looks at the task before does not mix the two.
struct SharedMemoryChannel::Chunks {
  static constexpr std::uint32_t kCollateTask = std::uint32_t{1} << 31;

  std::size_t of_items = 0;
  bool has_collate_task = false;  // one more, behind those

  [[nodiscard]] static Chunks of(const Slot& slot);
  [[nodiscard]] std::size_t all() const { return of_items + (has_collate_task ? 1 : 0); }
  [[nodiscard]] std::uint32_t word() const {
    return static_cast<std::uint32_t>(of_items) | (has_collate_task ? kCollateTask : 0);
  }
};

struct SharedMemoryChannel::Slot {
  static constexpr std::uint64_t kNoFailure = ~std::uint64_t{0};

  std::atomic<std::uint64_t> state;  // SlotState, and above kStateBits a number a task
  std::atomic<std::uint32_t> withdrawn;
  std::atomic<std::uint32_t> replaced;
  std::atomic<std::uint64_t> sequence;
  // Atomic because a worker may still look at the task before; what it claims is of this one.
  std::atomic<std::uint32_t> count;
  std::atomic<std::uint32_t> items_per_chunk;
  std::atomic<std::uint32_t> chunks;  // `Chunks`
  std::atomic<std::int32_t> worker;
  std::atomic<std::uint64_t> hint;  // version, and the first chunk that may be open
  std::atomic<std::uint32_t> finished;
  std::atomic<std::uint32_t> is_suspect;  // a worker died here: `finished` may be too small
  std::atomic<std::uint32_t> items_done;
  std::atomic<std::uint32_t> failure_records_taken;
  std::atomic<std::uint64_t> first_failed;
  std::array<std::uint64_t, Task::kWords> words;
  std::atomic<std::uint64_t> result;
};

inline SharedMemoryChannel::Chunks SharedMemoryChannel::Chunks::of(const Slot& slot) {
  const auto word = slot.chunks.load(std::memory_order_relaxed);
  return {word & ~kCollateTask, (word & kCollateTask) != 0};
}

struct SharedMemoryChannel::BlockWords {
  static constexpr std::uint64_t kBeingFreed = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kBeingWritten = std::uint64_t{1} << 62;

  std::atomic<std::uint64_t> offset;
  std::atomic<std::uint64_t> bytes;  // 0: there is none; plus one of the above
};

struct SharedMemoryChannel::FailureRecord {
  static constexpr std::uint64_t kIsWritten = ~std::uint64_t{0};

  FailureKind kind;
  std::uint32_t worker;
  std::int32_t pid;
  std::int32_t wait_status;
  std::uint64_t position;
  std::int64_t item;
  std::atomic<std::uint64_t> sequence;  // + 1: the task it belongs to; of a note also kIsWritten
  std::array<char, 192> type;
  std::array<char, 1600> message;
};

[[nodiscard]] constexpr std::size_t round_up(std::size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

[[nodiscard]] inline SlotState slot_state(std::uint64_t word) {
  return static_cast<SlotState>(word & kStateMask);
}

[[nodiscard]] inline std::uint64_t with_state(std::uint64_t word, SlotState state) {
  return (word & ~kStateMask) | static_cast<std::uint64_t>(state);
}

/// Moves the hint back to the first chunk; the new version undoes what others are about to write.
inline void restart_hint(std::atomic<std::uint64_t>& hint) {
  auto value = hint.load(std::memory_order_relaxed);
  while (!hint.compare_exchange_weak(value, ((value >> 32) + 1) << 32)) {
  }
}

}  // namespace lockstep::workers
