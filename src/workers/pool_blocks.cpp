// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_blocks.h"

#include <algorithm>
#include <utility>

#include "native/posix/page_size.h"

namespace lockstep::workers {
namespace {

// A free block is used for less than it holds, down to this part of it.
constexpr std::size_t kLooseness = 4;
constexpr std::size_t kSmallBlock = std::size_t{64} << 10;

}  // namespace

PoolBlocks::PoolBlocks(std::shared_ptr<TaskChannel> channel, std::size_t entries)
    : channel_(std::move(channel)), entries_(entries) {}

std::optional<PoolBlocks::Block> PoolBlocks::take(std::size_t arena, std::size_t bytes,
                                                  std::uint64_t task, std::size_t spare) {
  if (spare != 0 && used(arena) + spare >= entries_) return std::nullopt;
  const auto size = native::round_up_to_page(std::max<std::size_t>(bytes, 1));
  auto entry = free_entry(arena, size);
  const bool has_memory = entry.has_value();
  if (!has_memory) entry = empty_entry(arena, task);
  if (!entry) return std::nullopt;
  auto& block = words(*entry);
  if (!has_memory) {
    block.offset.store(channel_->blocks().take_space(size), std::memory_order_relaxed);
    block.bytes.store(size, std::memory_order_relaxed);
  }
  // Said before there is memory, so that it can be given back if this worker dies here.
  block.state.store(word_of(State::Taken, task), std::memory_order_release);
  try {
    if (!has_memory) {
      channel_->region().reserve(static_cast<std::size_t>(block.offset.load()), size);
    }
    return Block{*entry, map(*entry)->data(), bytes};
  } catch (...) {
    give_back(*entry, true);
    throw;
  }
}

// The smallest that is large enough, and not far too large.
std::optional<std::uint32_t> PoolBlocks::free_entry(std::size_t arena, std::size_t bytes) const {
  const auto most = std::max(kLooseness * bytes, kSmallBlock);
  std::optional<std::uint32_t> found;
  std::size_t its_bytes = 0;
  for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
    const auto& block = words(entry);
    if (state_of(block.state.load(std::memory_order_acquire)) != State::Free) continue;
    const auto has = static_cast<std::size_t>(block.bytes.load(std::memory_order_relaxed));
    if (has < bytes || has > most || (found && has >= its_bytes)) continue;
    found = entry;
    its_bytes = has;
    if (has == bytes) break;
  }
  return found;
}

// One without memory, or else the smallest free one, which loses it.
std::optional<std::uint32_t> PoolBlocks::empty_entry(std::size_t arena, std::uint64_t task) {
  std::optional<std::uint32_t> smallest;
  for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
    const auto state = state_of(words(entry).state.load(std::memory_order_acquire));
    if (state == State::None) return entry;
    if (state != State::Free) continue;
    if (!smallest || bytes_of(entry) < bytes_of(*smallest)) smallest = entry;
  }
  if (const auto used = entries_used(arena); used < entries_) {
    used_words(arena).store(used + 1, std::memory_order_release);
    return static_cast<std::uint32_t>(first_of(arena) + used);
  }
  if (smallest) {
    // Not Free while it loses its memory: this worker may die in between.
    words(*smallest).state.store(word_of(State::Taken, task), std::memory_order_release);
    give_back(*smallest, true);
  }
  return smallest;
}

std::shared_ptr<native::MappedBlock> PoolBlocks::map(std::uint32_t entry) {
  if (mappings_.size() <= entry) mappings_.resize(entry + 1);
  auto& known = mappings_[entry];
  // Space is never used again, so an offset means the same block.
  const auto offset = words(entry).offset.load(std::memory_order_relaxed);
  if (!known.block || known.offset != offset) {
    known.block = std::make_shared<native::MappedBlock>(
        channel_->region().map(static_cast<std::size_t>(offset), bytes_of(entry)));
    known.offset = offset;
  }
  return known.block;
}

std::size_t PoolBlocks::bytes_of(std::uint32_t entry) const {
  return static_cast<std::size_t>(words(entry).bytes.load(std::memory_order_relaxed));
}

void PoolBlocks::hold(std::uint32_t entry) const {
  words(entry).state.store(word_of(State::Held), std::memory_order_release);
}

void PoolBlocks::give_back(std::uint32_t entry, bool to_system) const noexcept {
  auto& block = words(entry);
  to_system = to_system || kept_bytes(arena_of(entry)) + bytes_of(entry) > kKept;
  if (to_system) {
    channel_->region().free(static_cast<std::size_t>(block.offset.load(std::memory_order_relaxed)),
                            bytes_of(entry));
  }
  block.state.store(word_of(to_system ? State::None : State::Free), std::memory_order_release);
}

std::size_t PoolBlocks::used(std::size_t arena) const {
  std::size_t count = 0;
  for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
    const auto state = state_of(words(entry).state.load(std::memory_order_relaxed));
    count += state == State::Taken || state == State::Held ? 1U : 0U;
  }
  return count;
}

std::size_t PoolBlocks::kept_bytes(std::size_t arena) const {
  std::size_t bytes = 0;
  for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
    if (state_of(words(entry).state.load(std::memory_order_relaxed)) == State::Free) {
      bytes += bytes_of(entry);
    }
  }
  return bytes;
}

// What the dead worker has still claimed is not done; what it has finished is, even where the slot
// does not say so yet. The owner may take over such a block meanwhile, and then lets go of the
// slot.
bool PoolBlocks::belongs_to_a_result(std::uint64_t task, std::size_t arena) const {
  for (std::size_t slot = 0; slot < channel_->slots(); ++slot) {
    if (channel_->sequence(slot) != task || channel_->state(slot) == SlotState::Free) continue;
    return channel_->claimer(slot) != arena && !channel_->failures().first_failed(slot);
  }
  return false;
}

void PoolBlocks::repair(std::size_t arena) const {
  for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
    auto& word = words(entry).state;
    auto seen = word.load(std::memory_order_acquire);
    if (state_of(seen) != State::Taken || belongs_to_a_result(seen >> kStateBits, arena)) continue;
    // Not if the owner has taken it over. Its memory goes, since the worker may have died before
    // there was all of it.
    if (word.compare_exchange_strong(seen, word_of(State::Held), std::memory_order_acq_rel)) {
      give_back(entry, true);
    }
  }
}

void PoolBlocks::trim() const noexcept {
  for (std::size_t arena = 0; arena <= owner_arena(); ++arena) {
    for (auto entry = first_of(arena); entry < end_of(arena); ++entry) {
      if (state_of(words(entry).state.load(std::memory_order_acquire)) == State::Free) {
        give_back(entry, true);
      }
    }
  }
}

}  // namespace lockstep::workers
