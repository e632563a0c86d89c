// SPDX-License-Identifier: BSD-3-Clause
#include "workers/task_items.h"

#include <atomic>

#include "workers/chunk_state.h"
#include "workers/item_word.h"

namespace lockstep::workers {

std::span<const std::int64_t> TaskItems::of(std::size_t slot) const {
  return {layout_.items(slot), layout_.slot(slot).count};
}

std::int64_t TaskItems::at(std::size_t slot, std::size_t position) const {
  return std::atomic_ref(layout_.items(slot)[position]).load(std::memory_order_acquire);
}

std::size_t TaskItems::replaced(std::size_t slot) const {
  return layout_.slot(slot).replaced.load(std::memory_order_acquire);
}

bool TaskItems::is_skipped(std::size_t slot, std::size_t position) const {
  const auto chunk = position / layout_.slot(slot).items_per_chunk;
  const auto word = layout_.chunks(slot)[chunk].load(std::memory_order_acquire);
  return state_of(word) == ChunkState::Skipped;
}

bool TaskItems::is_left_out(std::size_t slot, std::size_t position) const {
  return at(slot, position) == kLeftOut || is_skipped(slot, position);
}

void TaskItems::assign(std::size_t slot, std::span<const std::int64_t> items) {
  // A worker may still look at the task before: who sees an item of this one sees that the slot was
  // free, too.
  for (std::size_t at = 0; at < items.size(); ++at) set(slot, at, items[at]);
  auto& words = layout_.slot(slot);
  words.count.store(static_cast<std::uint32_t>(items.size()), std::memory_order_relaxed);
  words.replaced.store(0, std::memory_order_relaxed);
}

void TaskItems::leave_out(std::size_t slot, std::size_t position) {
  set(slot, position, kLeftOut);
}

void TaskItems::replace(std::size_t slot, std::size_t position, std::int64_t item) {
  set(slot, position, item);
  layout_.slot(slot).replaced.fetch_add(1, std::memory_order_release);
}

void TaskItems::mark_to_be_replaced(std::size_t slot, std::size_t position, std::int64_t item) {
  set(slot, position, to_be_replaced(item));
}

void TaskItems::set(std::size_t slot, std::size_t position, std::int64_t word) {
  std::atomic_ref(layout_.items(slot)[position]).store(word, std::memory_order_release);
}

}  // namespace lockstep::workers
