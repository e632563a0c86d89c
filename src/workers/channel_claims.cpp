// SPDX-License-Identifier: BSD-3-Clause
// The channel's side of the workers: units are claimed, and finished or failed.
#include <algorithm>
#include <cstring>
#include <span>

#include "native/posix/futex.h"
#include "workers/channel_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::workers {
namespace {

void copy_text(std::span<char> target, std::string_view text) {
  const auto length = std::min(text.size(), target.size() - 1);
  std::memcpy(target.data(), text.data(), length);
  target[length] = '\0';
}

}  // namespace

bool SharedMemoryChannel::may_have(const Slot& target, std::size_t worker) const {
  const auto only = target.worker.load(std::memory_order_relaxed);
  return only == Task::kAnybody || static_cast<std::size_t>(only) == worker;
}

// `finished` is counted up after a unit's word, so whoever counts the last item's unit finds this
// due; where somebody died in between, the words alone tell.
bool SharedMemoryChannel::is_closing_due(std::size_t slot) const {
  const Slot& target = at(slot);
  const auto [others, has_closing] = Units::of(target);
  if (!has_closing) return false;
  if (target.finished.load(std::memory_order_seq_cst) < others &&
      target.is_suspect.load(std::memory_order_seq_cst) == 0) {
    return false;
  }
  const auto* words = units_of(slot);
  return state_of(words[others].load(std::memory_order_seq_cst)) == UnitState::Open &&
         are_final(slot, others);
}

bool SharedMemoryChannel::are_final(std::size_t slot, std::size_t units) const {
  const auto* words = units_of(slot);
  return std::all_of(words, words + units, [](const auto& word) {
    return is_final(word.load(std::memory_order_seq_cst));
  });
}

// What was read before the claim may have been the task before; what is read after it belongs to
// the task of this unit, which cannot end without it.
bool SharedMemoryChannel::take_unit(std::size_t slot, std::size_t unit, std::size_t worker) {
  Slot& target = at(slot);
  auto& word = units_of(slot)[unit];
  auto value = word.load(std::memory_order_relaxed);
  if (state_of(value) != UnitState::Open) return false;
  if (!word.compare_exchange_strong(value, claimed_by(value, worker), std::memory_order_seq_cst)) {
    return false;
  }
  const auto others = Units::of(target).of_items;
  if (may_have(target, worker) && (unit < others || are_final(slot, others))) return true;
  word.store(value, std::memory_order_seq_cst);
  restart_hint(target.hint);
  wake_workers();
  return false;
}

std::optional<Claim> SharedMemoryChannel::claim_unit(std::size_t slot, std::size_t worker) {
  Slot& target = at(slot);
  auto hint = target.hint.load(std::memory_order_acquire);
  const auto units = Units::of(target).of_items;
  // Only as long as nobody has opened a unit again: then the version is another.
  const auto move_hint = [&](std::size_t unit) {
    target.hint.compare_exchange_strong(hint, (hint >> 32 << 32) | unit, std::memory_order_acq_rel);
  };
  for (auto unit = static_cast<std::size_t>(hint & 0xffff'ffffU); unit < units; ++unit) {
    if (!take_unit(slot, unit, worker)) continue;
    move_hint(unit + 1);
    return claim_of(slot, unit);
  }
  move_hint(units);
  if (is_closing_due(slot) && take_unit(slot, units, worker)) return claim_of(slot, units);
  return std::nullopt;
}

// Of a unit that has been taken.
Claim SharedMemoryChannel::claim_of(std::size_t slot, std::size_t unit) const {
  const Slot& target = at(slot);
  Claim claim;
  claim.slot = slot;
  claim.unit = unit;
  if (unit >= Units::of(target).of_items) {
    claim.is_closing = true;
    claim.items = items(slot);
    return claim;
  }
  claim.first = unit * target.items_per_unit;
  claim.items = items(slot).subspan(claim.first);
  claim.items = claim.items.first(std::min<std::size_t>(target.items_per_unit, claim.items.size()));
  return claim;
}

std::optional<Claim> SharedMemoryChannel::try_claim(std::size_t worker) {
  for (;;) {
    std::optional<std::size_t> oldest;
    for (std::size_t slot = 0; slot < shape_.slots; ++slot) {
      if (state(slot) != SlotState::Filling) continue;
      const Slot& target = at(slot);
      if (!may_have(target, worker)) continue;
      const auto hint = target.hint.load(std::memory_order_acquire) & 0xffff'ffffU;
      if (hint >= Units::of(target).of_items && !is_closing_due(slot)) continue;
      if (!oldest || sequence(slot) < sequence(*oldest)) oldest = slot;
    }
    if (!oldest) return std::nullopt;
    if (auto claim = claim_unit(*oldest, worker)) return claim;
  }
}

std::optional<Claim> SharedMemoryChannel::claim(std::size_t worker) {
  const WorkerRecord& record = board_.workers[worker];
  while (!is_stopping() && record.retire.load(std::memory_order_acquire) == 0) {
    const auto seen = work_count();
    if (auto claim = try_claim(worker)) return claim;
    wait_work(worker, seen);
  }
  return std::nullopt;
}

bool SharedMemoryChannel::is_futile(const Claim& claim) const {
  const Slot& target = at(claim.slot);
  const auto needs = claim.is_closing ? Slot::kNoFailure : std::uint64_t{claim.first};
  return target.withdrawn.load(std::memory_order_relaxed) != 0 ||
         target.first_failed.load(std::memory_order_relaxed) < needs;
}

void SharedMemoryChannel::begin_item(std::size_t worker, std::size_t slot, std::size_t position) {
  WorkerRecord& record = board_.workers[worker];
  record.beats.store(record.beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  record.in_hand.store(hand(slot, position), std::memory_order_release);
}

void SharedMemoryChannel::end_item(std::size_t worker) {
  WorkerRecord& record = board_.workers[worker];
  const auto value = record.in_hand.load(std::memory_order_relaxed);
  if (value == WorkerRecord::kNothing) return;
  record.in_hand.store(WorkerRecord::kNothing, std::memory_order_release);
  Slot& target = at((value >> 32) - 1);
  // Where the units themselves do not show that there is progress.
  if (target.items_per_unit > 1 || Units::of(target).has_closing)
    target.items_done.fetch_add(1, std::memory_order_relaxed);
}

void SharedMemoryChannel::finish(const Claim& claim) {
  conclude(claim.slot, claim.unit, unit_word(UnitState::Done));
}

void SharedMemoryChannel::fail(const Claim& claim, const Failure& failure) {
  write_failure(claim.slot, failure);
  conclude(claim.slot, claim.unit, unit_word(UnitState::Failed));
}

// Of a worker that dies in here only an area is lost: its unit is still claimed.
void SharedMemoryChannel::write_failure(std::size_t slot, const Failure& failure) {
  Slot& target = at(slot);
  const auto number = target.areas_taken.fetch_add(1, std::memory_order_relaxed);
  if (number < areas()) {
    auto& of_area = areas_of(slot)[number].sequence;
    of_area.store(0, std::memory_order_relaxed);
    fill_area(slot, number, failure);
    of_area.store(sequence(slot) + 1, std::memory_order_release);
  }
  auto first = target.first_failed.load(std::memory_order_relaxed);
  while (failure.position < first && !target.first_failed.compare_exchange_weak(
                                         first, failure.position, std::memory_order_release)) {
  }
}

void SharedMemoryChannel::fill_area(std::size_t slot, std::size_t number, const Failure& failure) {
  Area& area = areas_of(slot)[number];
  area.kind = failure.kind;
  area.worker = static_cast<std::uint32_t>(failure.worker);
  area.pid = failure.pid;
  area.wait_status = failure.wait_status;
  area.position = failure.position;
  area.item = failure.item;
  copy_text(area.type, failure.type);
  copy_text(area.message, failure.message);
}

void SharedMemoryChannel::leave_out(std::size_t slot, std::size_t position) {
  set_item(slot, position, kLeftOut);
}

void SharedMemoryChannel::replace(std::size_t slot, std::size_t position, std::int64_t item) {
  set_item(slot, position, item);
  at(slot).replaced.fetch_add(1, std::memory_order_release);
}

// Where a worker dies in here, nothing is noted in this slot any more: that costs a warning.
void SharedMemoryChannel::note(std::size_t slot, const Failure& failure) {
  auto& of_area = areas_of(slot)[areas()].sequence;
  auto found = of_area.load(std::memory_order_relaxed);
  if (found == sequence(slot) + 1 || found == Area::kIsWritten) return;
  if (!of_area.compare_exchange_strong(found, Area::kIsWritten)) return;
  fill_area(slot, areas(), failure);
  of_area.store(sequence(slot) + 1, std::memory_order_release);
}

void SharedMemoryChannel::conclude(std::size_t slot, std::size_t unit, std::uint32_t state) {
  Slot& target = at(slot);
  const auto units = Units::of(target).all();
  units_of(slot)[unit].store(state, std::memory_order_seq_cst);
  // From here on the slot may belong to somebody else at any time, if this was not its last unit.
  const auto finished = target.finished.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (finished >= units || target.is_suspect.load(std::memory_order_seq_cst) != 0) {
    complete_if_all_done(slot);
  }
}

void SharedMemoryChannel::complete_if_all_done(std::size_t slot) {
  Slot& target = at(slot);
  auto seen = target.state.load(std::memory_order_seq_cst);
  if (slot_state(seen) != SlotState::Filling) return;
  const auto done_sequence = target.sequence.load(std::memory_order_relaxed);
  if (!are_final(slot, Units::of(target).all())) return;
  if (!target.state.compare_exchange_strong(seen, with_state(seen, SlotState::Ready),
                                            std::memory_order_seq_cst)) {
    return;
  }
  board_.header->done.fetch_add(1, std::memory_order_seq_cst);
  const auto awaited = board_.header->awaited.load(std::memory_order_seq_cst);
  if (awaited == done_sequence + 1 || awaited == BoardHeader::kAny) {
    native::futex_wake_all(board_.header->done);
  }
}

}  // namespace lockstep::workers
