// SPDX-License-Identifier: BSD-3-Clause
// The channel's side of the workers: chunks are claimed, and finished or failed.
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

// `finished` is counted up after a chunk's word, so whoever counts the last item's chunk finds this
// due; where somebody died in between, the words alone tell.
bool SharedMemoryChannel::is_collate_due(std::size_t slot) const {
  const Slot& target = at(slot);
  const auto [others, has_collate_task] = Chunks::of(target);
  if (!has_collate_task) return false;
  if (target.finished.load(std::memory_order_seq_cst) < others &&
      target.is_suspect.load(std::memory_order_seq_cst) == 0) {
    return false;
  }
  const auto* words = chunks_of(slot);
  return state_of(words[others].load(std::memory_order_seq_cst)) == ChunkState::Open &&
         are_final(slot, others);
}

bool SharedMemoryChannel::are_final(std::size_t slot, std::size_t chunks) const {
  const auto* words = chunks_of(slot);
  return std::all_of(words, words + chunks, [](const auto& word) {
    return is_final(word.load(std::memory_order_seq_cst));
  });
}

// What was read before the claim may have been the task before; what is read after it belongs to
// the task of this chunk, which cannot end without it.
bool SharedMemoryChannel::take_chunk(std::size_t slot, std::size_t chunk, std::size_t worker) {
  Slot& target = at(slot);
  auto& word = chunks_of(slot)[chunk];
  auto value = word.load(std::memory_order_relaxed);
  if (state_of(value) != ChunkState::Open) return false;
  if (!word.compare_exchange_strong(value, claimed_by(value, worker), std::memory_order_seq_cst)) {
    return false;
  }
  const auto others = Chunks::of(target).of_items;
  if (may_have(target, worker) && (chunk < others || are_final(slot, others))) return true;
  word.store(value, std::memory_order_seq_cst);
  restart_hint(target.hint);
  wake_workers();
  return false;
}

std::optional<Claim> SharedMemoryChannel::claim_chunk(std::size_t slot, std::size_t worker) {
  Slot& target = at(slot);
  auto hint = target.hint.load(std::memory_order_acquire);
  const auto chunks = Chunks::of(target).of_items;
  // Only as long as nobody has opened a chunk again: then the version is another.
  const auto move_hint = [&](std::size_t chunk) {
    target.hint.compare_exchange_strong(hint, (hint >> 32 << 32) | chunk,
                                        std::memory_order_acq_rel);
  };
  for (auto chunk = static_cast<std::size_t>(hint & 0xffff'ffffU); chunk < chunks; ++chunk) {
    if (!take_chunk(slot, chunk, worker)) continue;
    move_hint(chunk + 1);
    return claim_of(slot, chunk);
  }
  move_hint(chunks);
  if (is_collate_due(slot) && take_chunk(slot, chunks, worker)) return claim_of(slot, chunks);
  return std::nullopt;
}

// Of a chunk that has been taken.
Claim SharedMemoryChannel::claim_of(std::size_t slot, std::size_t chunk) const {
  const Slot& target = at(slot);
  Claim claim;
  claim.slot = slot;
  claim.chunk = chunk;
  if (chunk >= Chunks::of(target).of_items) {
    claim.is_collate = true;
    claim.items = items(slot);
    return claim;
  }
  claim.first = chunk * target.items_per_chunk;
  claim.items = items(slot).subspan(claim.first);
  claim.items =
      claim.items.first(std::min<std::size_t>(target.items_per_chunk, claim.items.size()));
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
      if (hint >= Chunks::of(target).of_items && !is_collate_due(slot)) continue;
      if (!oldest || sequence(slot) < sequence(*oldest)) oldest = slot;
    }
    if (!oldest) return std::nullopt;
    if (auto claim = claim_chunk(*oldest, worker)) return claim;
  }
}

std::optional<Claim> SharedMemoryChannel::claim(std::size_t worker) {
  const WorkerRecord& record = table_.workers[worker];
  while (!is_stopping() && record.retire.load(std::memory_order_acquire) == 0) {
    const auto seen = work_count();
    if (auto claim = try_claim(worker)) return claim;
    wait_work(worker, seen);
  }
  return std::nullopt;
}

bool SharedMemoryChannel::is_futile(const Claim& claim) const {
  const Slot& target = at(claim.slot);
  const auto needs = claim.is_collate ? Slot::kNoFailure : std::uint64_t{claim.first};
  return target.withdrawn.load(std::memory_order_relaxed) != 0 ||
         target.first_failed.load(std::memory_order_relaxed) < needs;
}

void SharedMemoryChannel::begin_item(std::size_t worker, std::size_t slot, std::size_t position) {
  WorkerRecord& record = table_.workers[worker];
  record.heartbeats.store(record.heartbeats.load(std::memory_order_relaxed) + 1,
                          std::memory_order_relaxed);
  record.current_item.store(current_item_word(slot, position), std::memory_order_release);
}

void SharedMemoryChannel::end_item(std::size_t worker) {
  WorkerRecord& record = table_.workers[worker];
  const auto value = record.current_item.load(std::memory_order_relaxed);
  if (value == WorkerRecord::kNothing) return;
  record.current_item.store(WorkerRecord::kNothing, std::memory_order_release);
  Slot& target = at((value >> 32) - 1);
  // Where the chunks themselves do not show that there is progress.
  if (target.items_per_chunk > 1 || Chunks::of(target).has_collate_task)
    target.items_done.fetch_add(1, std::memory_order_relaxed);
}

void SharedMemoryChannel::finish(const Claim& claim) {
  conclude(claim.slot, claim.chunk, chunk_word(ChunkState::Done));
}

void SharedMemoryChannel::fail(const Claim& claim, const Failure& failure) {
  write_failure(claim.slot, failure);
  conclude(claim.slot, claim.chunk, chunk_word(ChunkState::Failed));
}

// Of a worker that dies in here only a record is lost: its chunk is still claimed.
void SharedMemoryChannel::write_failure(std::size_t slot, const Failure& failure) {
  Slot& target = at(slot);
  const auto number = target.failure_records_taken.fetch_add(1, std::memory_order_relaxed);
  if (number < failure_records()) {
    auto& of_record = failure_records_of(slot)[number].sequence;
    of_record.store(0, std::memory_order_relaxed);
    fill_record(slot, number, failure);
    of_record.store(sequence(slot) + 1, std::memory_order_release);
  }
  auto first = target.first_failed.load(std::memory_order_relaxed);
  while (failure.position < first && !target.first_failed.compare_exchange_weak(
                                         first, failure.position, std::memory_order_release)) {
  }
}

void SharedMemoryChannel::fill_record(std::size_t slot, std::size_t number,
                                      const Failure& failure) {
  FailureRecord& record = failure_records_of(slot)[number];
  record.kind = failure.kind;
  record.worker = static_cast<std::uint32_t>(failure.worker);
  record.pid = failure.pid;
  record.wait_status = failure.wait_status;
  record.position = failure.position;
  record.item = failure.item;
  copy_text(record.type, failure.type);
  copy_text(record.message, failure.message);
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
  auto& of_record = failure_records_of(slot)[failure_records()].sequence;
  auto found = of_record.load(std::memory_order_relaxed);
  if (found == sequence(slot) + 1 || found == FailureRecord::kIsWritten) return;
  if (!of_record.compare_exchange_strong(found, FailureRecord::kIsWritten)) return;
  fill_record(slot, failure_records(), failure);
  of_record.store(sequence(slot) + 1, std::memory_order_release);
}

void SharedMemoryChannel::conclude(std::size_t slot, std::size_t chunk, std::uint32_t state) {
  Slot& target = at(slot);
  const auto chunks = Chunks::of(target).all();
  chunks_of(slot)[chunk].store(state, std::memory_order_seq_cst);
  // From here on the slot may belong to somebody else at any time, if this was not its last chunk.
  const auto finished = target.finished.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (finished >= chunks || target.is_suspect.load(std::memory_order_seq_cst) != 0) {
    complete_if_all_done(slot);
  }
}

void SharedMemoryChannel::complete_if_all_done(std::size_t slot) {
  Slot& target = at(slot);
  auto seen = target.state.load(std::memory_order_seq_cst);
  if (slot_state(seen) != SlotState::Filling) return;
  const auto done_sequence = target.sequence.load(std::memory_order_relaxed);
  if (!are_final(slot, Chunks::of(target).all())) return;
  if (!target.state.compare_exchange_strong(seen, with_state(seen, SlotState::Ready),
                                            std::memory_order_seq_cst)) {
    return;
  }
  table_.events->done.fetch_add(1, std::memory_order_seq_cst);
  const auto awaited = table_.events->awaited.load(std::memory_order_seq_cst);
  if (awaited == done_sequence + 1 || awaited == PoolEventWords::kAny) {
    native::futex_wake_all(table_.events->done);
  }
}

}  // namespace lockstep::workers
