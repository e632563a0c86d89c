// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "workers/task.h"

namespace lockstep::workers {

/// What all processes know of a slot and of the task in it. Lies in shared memory. A worker may
/// still look at the task before this one, so what is not constant is atomic; what a worker reads
/// after it has claimed a chunk belongs to that chunk's task.
struct SlotWords {
  static constexpr std::uint64_t kNoFailure = ~std::uint64_t{0};

  std::atomic<std::uint64_t> state;  // `slot_state`, and above it a number that changes by task
  std::atomic<std::uint32_t> withdrawn;
  std::atomic<std::uint32_t> replaced;
  std::atomic<std::uint64_t> sequence;
  std::atomic<std::uint32_t> count;
  std::atomic<std::uint32_t> items_per_chunk;
  std::atomic<std::uint32_t> chunks;  // `TaskChunks`
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

/// How a task is cut. In one word, so that who still looks at the task before does not mix the two.
struct TaskChunks {
  static constexpr std::uint32_t kCollateTask = std::uint32_t{1} << 31;

  std::size_t of_items = 0;
  bool has_collate_task = false;  // one more, behind those

  [[nodiscard]] static TaskChunks of(const SlotWords& slot) {
    const auto word = slot.chunks.load(std::memory_order_relaxed);
    return {word & ~kCollateTask, (word & kCollateTask) != 0};
  }
  [[nodiscard]] std::size_t all() const { return of_items + (has_collate_task ? 1 : 0); }
  [[nodiscard]] std::uint32_t word() const {
    return static_cast<std::uint32_t>(of_items) | (has_collate_task ? kCollateTask : 0);
  }
};

constexpr int kSlotStateBits = 8;
constexpr std::uint64_t kSlotStateMask = (1U << kSlotStateBits) - 1;

[[nodiscard]] inline SlotState slot_state(std::uint64_t word) {
  return static_cast<SlotState>(word & kSlotStateMask);
}

[[nodiscard]] inline std::uint64_t with_state(std::uint64_t word, SlotState state) {
  return (word & ~kSlotStateMask) | static_cast<std::uint64_t>(state);
}

}  // namespace lockstep::workers
