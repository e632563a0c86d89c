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
  for (std::size_t unit = 0; unit < Units::of(target).all(); ++unit) {
    auto& word = units_of(slot)[unit];
    auto value = word.load(std::memory_order_acquire);
    while (state_of(value) == UnitState::Open &&
           !word.compare_exchange_weak(value, unit_word(UnitState::None))) {
    }
    is_busy = is_busy || state_of(value) == UnitState::Claimed;
  }
  if (is_busy) return false;
  release(slot);
  return true;
}

void SharedMemoryChannel::repair(std::size_t worker, Poison poison) {
  // Whatever the slot's state: a task may be claimed from in the moment before it is Filling.
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) {
    Slot& target = at(slot);
    // Whoever finishes a unit after this looks at all of them, and so does this process below: one
    // of both finds the last.
    target.is_suspect.store(1, std::memory_order_seq_cst);
    for (std::size_t unit = 0; unit < Units::of(target).all(); ++unit) {
      const auto value = units_of(slot)[unit].load(std::memory_order_seq_cst);
      if (state_of(value) == UnitState::Claimed && worker_of(value) == worker) {
        repair_unit(slot, unit, worker, poison);
      }
    }
    complete_if_all_done(slot);
  }
}

void SharedMemoryChannel::repair_unit(std::size_t slot, std::size_t unit, std::size_t worker,
                                      Poison poison) {
  Slot& target = at(slot);
  WorkerRecord& record = board_.workers[worker];
  auto& word = units_of(slot)[unit];
  auto attempts = attempts_of(word.load(std::memory_order_relaxed));
  const auto in_hand = record.in_hand.load(std::memory_order_acquire);
  const auto reopen = [&](std::uint32_t with_attempts) {
    word.store(unit_word(UnitState::Open, with_attempts), std::memory_order_seq_cst);
    restart_hint(target.hint);
  };
  // Not at an item: between two of them, or waiting for something.
  if (in_hand == WorkerRecord::kNothing || (in_hand >> 32) - 1 != slot) return reopen(attempts);
  const auto position = static_cast<std::size_t>(in_hand & 0xffff'ffffU);
  const bool is_closing = unit == Units::of(target).of_items;
  const auto one_item = target.items_per_unit == 1 && !is_closing;
  const bool is_at_item = position != kNoItem;
  // At what might replace the item of this unit.
  const bool is_elsewhere = one_item && is_at_item && position != unit;
  auto& end = ends_of(slot)[unit];
  if ((!one_item || is_elsewhere) && std::exchange(end, static_cast<std::uint32_t>(position) + 1) !=
                                         static_cast<std::uint32_t>(position) + 1) {
    attempts = 0;
  }
  if (attempts == 0) return reopen(1);
  if (poison == Poison::IsLeftOut && is_at_item) {
    if (one_item && !is_elsewhere) return conclude(slot, unit, unit_word(UnitState::Skipped));
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
  const auto order = record.order.load(std::memory_order_acquire);
  failure.kind = order == EndOrder::NoProgress      ? FailureKind::NoProgress
                 : order == EndOrder::TooMuchMemory ? FailureKind::TooMuchMemory
                                                    : FailureKind::Ended;
  failure.position = is_at_item ? position : is_closing ? 0 : unit * target.items_per_unit;
  failure.worker = worker;
  failure.pid = record.pid.load(std::memory_order_relaxed);
  failure.wait_status = record.wait_status.load(std::memory_order_relaxed);
  write_failure(slot, failure);
  conclude(slot, unit, unit_word(UnitState::Failed));
}

}  // namespace lockstep::workers
