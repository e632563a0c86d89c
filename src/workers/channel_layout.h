// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "workers/block_words.h"
#include "workers/failure_record.h"
#include "workers/pool_events.h"
#include "workers/slot_words.h"
#include "workers/worker_record.h"

namespace lockstep::workers {

/// How much a channel holds.
struct ChannelShape {
  std::size_t slots = 0;
  std::size_t workers = 0;
  std::size_t items_per_slot = 0;
  std::size_t user_bytes = 0;    ///< room for the caller's own words, 64-byte aligned, zeroed
  bool has_item_blocks = false;  ///< overflow blocks for the items of a task, not only its result
};

/// How a channel's control memory is laid out: a header, the pool's events, the records of the
/// workers, the user area, the words of all slots side by side, since all are looked at for each
/// task, then what else a slot has: its failure records, the words of its chunks, the items at
/// which workers ended, its items, and where its overflow blocks lie.
///
/// A view of memory that somebody else owns; copies see the same.
/// Thread-safety: as the words that it leads to.
class ChannelLayout {
 public:
  static constexpr std::size_t kLine = 64;

  /// What control memory of this shape needs.
  /// Throws: `std::system_error` when that is more than any machine has.
  [[nodiscard]] static std::size_t bytes_for(const ChannelShape& shape);
  /// Lays out fresh memory, which is zero, of at least `bytes_for(shape)` bytes.
  [[nodiscard]] static ChannelLayout create(std::span<std::byte> control,
                                            const ChannelShape& shape);
  /// What `create` has laid out, perhaps in another process.
  /// Throws: `std::system_error` when nobody has.
  [[nodiscard]] static ChannelLayout open(std::span<std::byte> control);

  [[nodiscard]] const ChannelShape& shape() const noexcept { return shape_; }
  /// At most one chunk an item, and the collate task.
  [[nodiscard]] std::size_t chunks_per_slot() const noexcept { return shape_.items_per_slot + 1; }
  /// Of failures; behind them lies one more, for a note.
  [[nodiscard]] std::size_t failures_per_slot() const noexcept { return failures_of(shape_); }
  /// The block of the result, and those of the items if there are any.
  [[nodiscard]] std::size_t blocks_per_slot() const noexcept { return blocks_of(shape_); }

  /// How much is taken of what lies behind the control memory.
  [[nodiscard]] std::atomic<std::uint64_t>& space_taken() const noexcept;
  /// Slots that were ever filled: all of them come before this one. So whoever looks for a task
  /// looks at as many as there were at once, and not at all that there may be.
  [[nodiscard]] std::atomic<std::uint64_t>& slots_used() const noexcept;
  [[nodiscard]] PoolEventWords& events() const noexcept { return *events_; }
  [[nodiscard]] std::span<WorkerRecord> workers() const noexcept {
    return {workers_, shape_.workers};
  }
  [[nodiscard]] std::byte* user_area() const noexcept { return user_area_; }

  [[nodiscard]] SlotWords& slot(std::size_t slot) const noexcept {
    return *reinterpret_cast<SlotWords*>(slots_ + slot * round_up(sizeof(SlotWords)));
  }
  [[nodiscard]] FailureRecord* failures(std::size_t slot) const noexcept {
    return reinterpret_cast<FailureRecord*>(part(slot, 0));
  }
  [[nodiscard]] std::atomic<std::uint32_t>* chunks(std::size_t slot) const noexcept {
    return reinterpret_cast<std::atomic<std::uint32_t>*>(part(slot, parts_.chunks));
  }
  /// By chunk: position + 1 of the item at which a worker ended, or 0; for the repairer.
  [[nodiscard]] std::uint32_t* ends(std::size_t slot) const noexcept {
    return reinterpret_cast<std::uint32_t*>(part(slot, parts_.ends));
  }
  [[nodiscard]] std::int64_t* items(std::size_t slot) const noexcept {
    return reinterpret_cast<std::int64_t*>(part(slot, parts_.items));
  }
  [[nodiscard]] BlockWords* blocks(std::size_t slot) const noexcept {
    return reinterpret_cast<BlockWords*>(part(slot, parts_.blocks));
  }

 private:
  struct Header;
  // Offsets within what a slot has beside its words, and how long that is.
  struct Parts {
    explicit Parts(const ChannelShape& shape);
    std::size_t chunks;
    std::size_t ends;
    std::size_t items;
    std::size_t blocks;
    std::size_t stride;
  };

  ChannelLayout(std::byte* control, const ChannelShape& shape);

  [[nodiscard]] static constexpr std::size_t round_up(std::size_t bytes) {
    return (bytes + kLine - 1) / kLine * kLine;
  }
  [[nodiscard]] static std::size_t failures_of(const ChannelShape& shape) noexcept;
  [[nodiscard]] static std::size_t blocks_of(const ChannelShape& shape) noexcept;
  [[nodiscard]] std::byte* part(std::size_t slot, std::size_t offset) const noexcept {
    return slot_parts_ + slot * parts_.stride + offset;
  }
  void construct() const;

  ChannelShape shape_;
  Parts parts_;
  Header* header_;
  PoolEventWords* events_;
  WorkerRecord* workers_;
  std::byte* user_area_;
  std::byte* slots_;       // the words of all slots, side by side
  std::byte* slot_parts_;  // what else a slot has, a stride each
};

}  // namespace lockstep::workers
