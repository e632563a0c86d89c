// SPDX-License-Identifier: BSD-3-Clause
#include "workers/claim_table.h"

#include <algorithm>

namespace lockstep::workers {
namespace {

bool may_have(const SlotWords& slot, std::size_t worker) {
  const auto only = slot.worker.load(std::memory_order_relaxed);
  return only == Task::kAnybody || static_cast<std::size_t>(only) == worker;
}

// The lower half of a hint's word; the upper half is its version.
std::size_t chunk_of_hint(std::uint64_t hint) {
  return static_cast<std::size_t>(hint & 0xffff'ffffU);
}

}  // namespace

void ClaimTable::open(std::size_t slot) {
  auto& words = layout_.slot(slot);
  const auto chunks = TaskChunks::of(words).all();
  // Before any chunk is open: whoever is told of the task finds its slot.
  if (layout_.slots_used().load(std::memory_order_relaxed) <= slot) {
    layout_.slots_used().store(slot + 1, std::memory_order_release);
  }
  std::fill_n(layout_.ends(slot), chunks, 0U);
  words.finished.store(0, std::memory_order_relaxed);
  words.is_suspect.store(0, std::memory_order_relaxed);
  // A worker that still looks at the task before this one may claim a chunk as soon as its word
  // says so; it finds all that describes the task written then.
  for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
    layout_.chunks(slot)[chunk].store(chunk_word(ChunkState::Open), std::memory_order_release);
  }
  restart_hint(slot);  // after that: who found nothing open before does not say so now
  // A new number, so that nobody completes this task who looked at the one before it.
  const auto number = (words.state.load(std::memory_order_relaxed) >> kSlotStateBits) + 1;
  words.state.store(with_state(number << kSlotStateBits, SlotState::Filling),
                    std::memory_order_seq_cst);
  complete_if_all_done(slot);  // if somebody was as quick as that
}

bool ClaimTable::withdraw(std::size_t slot) {
  bool is_busy = false;
  for (std::size_t chunk = 0; chunk < TaskChunks::of(layout_.slot(slot)).all(); ++chunk) {
    auto& word = layout_.chunks(slot)[chunk];
    auto value = word.load(std::memory_order_acquire);
    while (state_of(value) == ChunkState::Open &&
           !word.compare_exchange_weak(value, chunk_word(ChunkState::None))) {
    }
    is_busy = is_busy || state_of(value) == ChunkState::Claimed;
  }
  return !is_busy;
}

bool ClaimTable::take_back(std::size_t slot) {
  auto& word = layout_.chunks(slot)[0];
  auto value = word.load(std::memory_order_acquire);
  while (state_of(value) == ChunkState::Open) {
    if (word.compare_exchange_weak(value, chunk_word(ChunkState::None))) return true;
  }
  return false;
}

std::uint32_t ClaimTable::finished(std::size_t slot) const {
  return layout_.slot(slot).finished.load(std::memory_order_relaxed);
}

std::optional<std::size_t> ClaimTable::claimer(std::size_t slot) const {
  for (std::size_t chunk = 0; chunk < TaskChunks::of(layout_.slot(slot)).all(); ++chunk) {
    const auto value = layout_.chunks(slot)[chunk].load(std::memory_order_acquire);
    if (state_of(value) == ChunkState::Claimed) return worker_of(value);
  }
  return std::nullopt;
}

std::optional<Claim> ClaimTable::try_claim(std::size_t worker) {
  while (const auto oldest = oldest_open(worker)) {
    if (auto claim = claim_in(*oldest, worker)) return claim;
  }
  return std::nullopt;
}

// Of what is really open: a hint may be too low, and who gave a chunk back for nothing would claim
// it again at once.
bool ClaimTable::has_older_open(const Claim& claim, std::size_t worker) const {
  const auto own = layout_.slot(claim.slot).sequence.load(std::memory_order_relaxed);
  const auto used = layout_.slots_used().load(std::memory_order_acquire);
  for (std::size_t slot = 0; slot < used; ++slot) {
    const auto& words = layout_.slot(slot);
    if (slot_state(words.state.load(std::memory_order_acquire)) != SlotState::Filling) continue;
    if (!may_have(words, worker)) continue;
    const bool is_own = slot == claim.slot;
    if (!is_own && words.sequence.load(std::memory_order_relaxed) >= own) continue;
    if (has_open(slot, is_own ? claim.chunk : TaskChunks::of(words).of_items)) return true;
    if (!is_own && is_collate_due(slot)) return true;
  }
  return false;
}

bool ClaimTable::has_open(std::size_t slot, std::size_t end) const {
  const auto* words = layout_.chunks(slot);
  return std::any_of(words, words + end, [](const auto& word) {
    return state_of(word.load(std::memory_order_acquire)) == ChunkState::Open;
  });
}

void ClaimTable::give_back(const Claim& claim) {
  const auto word = layout_.chunks(claim.slot)[claim.chunk].load(std::memory_order_relaxed);
  reopen(claim.slot, claim.chunk, attempts_of(word));
  events_.wake_workers();
}

std::optional<std::size_t> ClaimTable::oldest_open(std::size_t worker) const {
  std::optional<std::size_t> oldest;
  std::uint64_t its_sequence = 0;
  const auto used = layout_.slots_used().load(std::memory_order_acquire);
  for (std::size_t slot = 0; slot < used; ++slot) {
    const auto& words = layout_.slot(slot);
    if (slot_state(words.state.load(std::memory_order_acquire)) != SlotState::Filling) continue;
    if (!may_have(words, worker)) continue;
    const auto hint = chunk_of_hint(words.hint.load(std::memory_order_acquire));
    if (hint >= TaskChunks::of(words).of_items && !is_collate_due(slot)) continue;
    const auto sequence = words.sequence.load(std::memory_order_relaxed);
    if (oldest && sequence >= its_sequence) continue;
    oldest = slot;
    its_sequence = sequence;
  }
  return oldest;
}

std::optional<Claim> ClaimTable::claim_in(std::size_t slot, std::size_t worker) {
  auto& words = layout_.slot(slot);
  auto hint = words.hint.load(std::memory_order_acquire);
  const auto chunks = TaskChunks::of(words).of_items;
  // Only as long as nobody has opened a chunk again: then the version is another.
  const auto move_hint = [&](std::size_t chunk) {
    words.hint.compare_exchange_strong(hint, (hint >> 32 << 32) | chunk, std::memory_order_acq_rel);
  };
  for (auto chunk = chunk_of_hint(hint); chunk < chunks; ++chunk) {
    if (!take(slot, chunk, worker)) continue;
    move_hint(chunk + 1);
    return claim_of(slot, chunk);
  }
  move_hint(chunks);
  if (is_collate_due(slot) && take(slot, chunks, worker)) return claim_of(slot, chunks);
  return std::nullopt;
}

// What was read before the claim may have been the task before; what is read after it belongs to
// the task of this chunk, which cannot end without it.
bool ClaimTable::take(std::size_t slot, std::size_t chunk, std::size_t worker) {
  auto& words = layout_.slot(slot);
  auto& word = layout_.chunks(slot)[chunk];
  auto value = word.load(std::memory_order_relaxed);
  if (state_of(value) != ChunkState::Open) return false;
  if (!word.compare_exchange_strong(value, claimed_by(value, worker), std::memory_order_seq_cst)) {
    return false;
  }
  const auto others = TaskChunks::of(words).of_items;
  if (may_have(words, worker) && (chunk < others || are_final(slot, others))) return true;
  word.store(value, std::memory_order_seq_cst);
  restart_hint(slot);
  events_.wake_workers();
  return false;
}

// Of a chunk that has been taken.
Claim ClaimTable::claim_of(std::size_t slot, std::size_t chunk) const {
  const auto& words = layout_.slot(slot);
  const std::span<const std::int64_t> items{layout_.items(slot), words.count};
  Claim claim;
  claim.slot = slot;
  claim.chunk = chunk;
  if (chunk >= TaskChunks::of(words).of_items) {
    claim.is_collate = true;
    claim.items = items;
    return claim;
  }
  claim.first = chunk * words.items_per_chunk;
  claim.items = items.subspan(claim.first);
  claim.items = claim.items.first(std::min<std::size_t>(words.items_per_chunk, claim.items.size()));
  return claim;
}

// `finished` is counted up after a chunk's word, so whoever counts the last item's chunk finds this
// due; where somebody died in between, the words alone tell.
bool ClaimTable::is_collate_due(std::size_t slot) const {
  const auto& words = layout_.slot(slot);
  const auto [others, has_collate_task] = TaskChunks::of(words);
  if (!has_collate_task) return false;
  if (words.finished.load(std::memory_order_seq_cst) < others &&
      words.is_suspect.load(std::memory_order_seq_cst) == 0) {
    return false;
  }
  const auto collate = layout_.chunks(slot)[others].load(std::memory_order_seq_cst);
  return state_of(collate) == ChunkState::Open && are_final(slot, others);
}

bool ClaimTable::are_final(std::size_t slot, std::size_t chunks) const {
  const auto* words = layout_.chunks(slot);
  return std::all_of(words, words + chunks, [](const auto& word) {
    return is_final(word.load(std::memory_order_seq_cst));
  });
}

void ClaimTable::conclude(std::size_t slot, std::size_t chunk, ChunkState state) {
  auto& words = layout_.slot(slot);
  const auto chunks = TaskChunks::of(words).all();
  layout_.chunks(slot)[chunk].store(chunk_word(state), std::memory_order_seq_cst);
  // From here on the slot may belong to somebody else at any time, if this was not its last chunk.
  const auto finished = words.finished.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (finished >= chunks || words.is_suspect.load(std::memory_order_seq_cst) != 0) {
    complete_if_all_done(slot);
  }
}

void ClaimTable::suspect(std::size_t slot) {
  // Whoever finishes a chunk after this looks at all of them, and so does the process that repairs:
  // one of both finds the last.
  layout_.slot(slot).is_suspect.store(1, std::memory_order_seq_cst);
  // It may have opened a chunk again, and not yet said where to look.
  restart_hint(slot);
}

void ClaimTable::reopen(std::size_t slot, std::size_t chunk, std::uint32_t attempts) {
  layout_.chunks(slot)[chunk].store(chunk_word(ChunkState::Open, attempts),
                                    std::memory_order_seq_cst);
  restart_hint(slot);
}

void ClaimTable::complete_if_all_done(std::size_t slot) {
  auto& words = layout_.slot(slot);
  auto seen = words.state.load(std::memory_order_seq_cst);
  if (slot_state(seen) != SlotState::Filling) return;
  const auto sequence = words.sequence.load(std::memory_order_relaxed);
  if (!are_final(slot, TaskChunks::of(words).all())) return;
  if (!words.state.compare_exchange_strong(seen, with_state(seen, SlotState::Ready),
                                           std::memory_order_seq_cst)) {
    return;
  }
  events_.announce_done(sequence);
}

// Back to the first chunk; the new version undoes what others are about to write.
void ClaimTable::restart_hint(std::size_t slot) {
  auto& hint = layout_.slot(slot).hint;
  auto value = hint.load(std::memory_order_relaxed);
  while (!hint.compare_exchange_weak(value, ((value >> 32) + 1) << 32)) {
  }
}

}  // namespace lockstep::workers
