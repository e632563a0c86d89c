// SPDX-License-Identifier: BSD-3-Clause
#include "workers/channel_repair.h"

#include <utility>

namespace lockstep::workers {
namespace {

FailureKind kind_of(KillReason reason) {
  switch (reason) {
    case KillReason::NoProgress:
      return FailureKind::NoProgress;
    case KillReason::TooMuchMemory:
      return FailureKind::TooMuchMemory;
    case KillReason::None:
      break;
  }
  return FailureKind::Ended;
}

}  // namespace

void ChannelRepair::repair(std::size_t worker, Poison poison, std::uint32_t attempts) {
  // Whatever the slot's state: a task may be claimed from in the moment before it is Filling.
  for (std::size_t slot = 0; slot < layout_.shape().slots; ++slot) {
    claims_.suspect(slot);
    for (std::size_t chunk = 0; chunk < TaskChunks::of(layout_.slot(slot)).all(); ++chunk) {
      const auto value = layout_.chunks(slot)[chunk].load(std::memory_order_seq_cst);
      if (state_of(value) == ChunkState::Claimed && worker_of(value) == worker) {
        repair_chunk(slot, chunk, worker, poison, attempts);
      }
    }
    claims_.complete_if_all_done(slot);
  }
}

void ChannelRepair::repair_chunk(std::size_t slot, std::size_t chunk, std::size_t worker,
                                 Poison poison, std::uint32_t attempts) {
  const auto ended = attempts_of(layout_.chunks(slot)[chunk].load(std::memory_order_relaxed));
  const auto current =
      CurrentItem::of(layout_.workers()[worker].current_item.load(std::memory_order_acquire));
  // Not at an item: between two of them, or waiting for something.
  if (!current || current->slot != slot) return claims_.reopen(slot, chunk, ended);
  const auto death = death_at(slot, chunk, worker, current->position);
  const auto before = deaths_before(death);
  if (before + 1 < attempts) return claims_.reopen(slot, chunk, before + 1);
  if (poison == Poison::IsLeftOut && death.position) return leave_out(death);
  if (poison == Poison::IsReplaced && death.position && try_to_replace(death, before)) return;
  fail(death);
}

ChannelRepair::Death ChannelRepair::death_at(std::size_t slot, std::size_t chunk,
                                             std::size_t worker, std::size_t position) const {
  const auto& words = layout_.slot(slot);
  Death death{worker, slot, chunk, std::nullopt, chunk == TaskChunks::of(words).of_items, false};
  if (position != CurrentItem::kNoItem) death.position = position;
  const bool is_one_item = words.items_per_chunk == 1 && !death.is_collate;
  // Otherwise it was, perhaps, at what might replace the item of this chunk.
  const bool is_elsewhere = death.position && position != chunk;
  death.is_of_chunk = is_one_item && !is_elsewhere;
  return death;
}

// How many workers have ended at the same place of this chunk before. A chunk of one item has one
// place; otherwise deaths at different places are not one item's fault.
std::uint32_t ChannelRepair::deaths_before(const Death& death) {
  const auto word = layout_.chunks(death.slot)[death.chunk].load(std::memory_order_relaxed);
  if (death.is_of_chunk) return attempts_of(word);
  const auto place = static_cast<std::uint32_t>(death.position.value_or(CurrentItem::kNoItem)) + 1;
  const auto last = std::exchange(layout_.ends(death.slot)[death.chunk], place);
  return last == place ? attempts_of(word) : 0;
}

void ChannelRepair::leave_out(const Death& death) {
  if (death.is_of_chunk) return claims_.conclude(death.slot, death.chunk, ChunkState::Skipped);
  items_.leave_out(death.slot, *death.position);
  claims_.reopen(death.slot, death.chunk, 0);
}

// False where this was tried before, and the item has gone on to end workers.
bool ChannelRepair::try_to_replace(const Death& death, std::uint32_t before) {
  const auto item = items_.at(death.slot, *death.position);
  if (item >= 0) {
    items_.mark_to_be_replaced(death.slot, *death.position, item);
    claims_.reopen(death.slot, death.chunk, 0);
    return true;
  }
  // It may have been marked, because of others' deaths, while this worker was still at it.
  if (before != 1) return false;
  claims_.reopen(death.slot, death.chunk, 2);
  return true;
}

void ChannelRepair::fail(const Death& death) {
  const auto& record = layout_.workers()[death.worker];
  Failure failure;
  failure.kind = kind_of(record.kill_reason.load(std::memory_order_acquire));
  failure.position = death.blamed(layout_.slot(death.slot).items_per_chunk);
  failure.worker = death.worker;
  failure.pid = record.pid.load(std::memory_order_relaxed);
  failure.wait_status = record.wait_status.load(std::memory_order_relaxed);
  failures_.write(death.slot, failure);
  claims_.conclude(death.slot, death.chunk, ChunkState::Failed);
}

std::size_t ChannelRepair::Death::blamed(std::size_t items_per_chunk) const {
  if (position) return *position;
  return is_collate ? 0 : chunk * items_per_chunk;
}

}  // namespace lockstep::workers
