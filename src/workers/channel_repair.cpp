// SPDX-License-Identifier: BSD-3-Clause
// The channel's exceptions: tasks that are of no use any more, and workers that have ended.
#include <utility>

#include "workers/channel_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::workers {

bool SharedMemoryChannel::withdraw(std::size_t slot) {
  Slot& target = at(slot);
  target.withdrawn.store(1, std::memory_order_relaxed);
  bool is_busy = false;
  for (std::size_t chunk = 0; chunk < Chunks::of(target).all(); ++chunk) {
    auto& word = chunks_of(slot)[chunk];
    auto value = word.load(std::memory_order_acquire);
    while (state_of(value) == ChunkState::Open &&
           !word.compare_exchange_weak(value, chunk_word(ChunkState::None))) {
    }
    is_busy = is_busy || state_of(value) == ChunkState::Claimed;
  }
  if (is_busy) return false;
  release(slot);
  return true;
}

void SharedMemoryChannel::repair(std::size_t worker, Poison poison) {
  // Whatever the slot's state: a task may be claimed from in the moment before it is Filling.
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) {
    Slot& target = at(slot);
    // Whoever finishes a chunk after this looks at all of them, and so does this process below: one
    // of both finds the last.
    target.is_suspect.store(1, std::memory_order_seq_cst);
    for (std::size_t chunk = 0; chunk < Chunks::of(target).all(); ++chunk) {
      const auto value = chunks_of(slot)[chunk].load(std::memory_order_seq_cst);
      if (state_of(value) == ChunkState::Claimed && worker_of(value) == worker) {
        repair_chunk(slot, chunk, worker, poison);
      }
    }
    complete_if_all_done(slot);
  }
}

void SharedMemoryChannel::repair_chunk(std::size_t slot, std::size_t chunk, std::size_t worker,
                                       Poison poison) {
  Slot& target = at(slot);
  WorkerRecord& record = table_.workers[worker];
  auto& word = chunks_of(slot)[chunk];
  auto attempts = attempts_of(word.load(std::memory_order_relaxed));
  const auto current_item = record.current_item.load(std::memory_order_acquire);
  const auto reopen = [&](std::uint32_t with_attempts) {
    word.store(chunk_word(ChunkState::Open, with_attempts), std::memory_order_seq_cst);
    restart_hint(target.hint);
  };
  // Not at an item: between two of them, or waiting for something.
  if (current_item == WorkerRecord::kNothing || (current_item >> 32) - 1 != slot)
    return reopen(attempts);
  const auto position = static_cast<std::size_t>(current_item & 0xffff'ffffU);
  const bool is_collate = chunk == Chunks::of(target).of_items;
  const auto one_item = target.items_per_chunk == 1 && !is_collate;
  const bool is_at_item = position != kNoItem;
  // At what might replace the item of this chunk.
  const bool is_elsewhere = one_item && is_at_item && position != chunk;
  auto& end = ends_of(slot)[chunk];
  if ((!one_item || is_elsewhere) && std::exchange(end, static_cast<std::uint32_t>(position) + 1) !=
                                         static_cast<std::uint32_t>(position) + 1) {
    attempts = 0;
  }
  if (attempts == 0) return reopen(1);
  if (poison == Poison::IsLeftOut && is_at_item) {
    if (one_item && !is_elsewhere) return conclude(slot, chunk, chunk_word(ChunkState::Skipped));
    leave_out(slot, position);
    return reopen(0);
  }
  if (poison == Poison::IsReplaced && is_at_item) {
    const auto found = item(slot, position);
    if (found >= 0) {
      set_item(slot, position, to_be_replaced(found));
      return reopen(0);
    }
    // It may have been marked, because of others' deaths, while this worker was still at it.
    if (attempts == 1) return reopen(2);
  }
  Failure failure;
  const auto reason = record.kill_reason.load(std::memory_order_acquire);
  failure.kind = reason == KillReason::NoProgress      ? FailureKind::NoProgress
                 : reason == KillReason::TooMuchMemory ? FailureKind::TooMuchMemory
                                                       : FailureKind::Ended;
  failure.position = is_at_item ? position : is_collate ? 0 : chunk * target.items_per_chunk;
  failure.worker = worker;
  failure.pid = record.pid.load(std::memory_order_relaxed);
  failure.wait_status = record.wait_status.load(std::memory_order_relaxed);
  write_failure(slot, failure);
  conclude(slot, chunk, chunk_word(ChunkState::Failed));
}

}  // namespace lockstep::workers
