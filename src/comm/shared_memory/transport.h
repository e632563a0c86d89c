// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/shared_memory/counters.h"
#include "comm/shared_memory/messages.h"
#include "native/posix/shared_memory.h"

namespace lockstep {

/// What the operations of one shared-memory group work with: the counters, the staging slots for
/// ordinary tensors, and the registered memory that tensors of `ProcessGroup::allocate` lie in.
///
/// Thread-safety: as the group's.
class SharedMemoryTransport {
 public:
  /// Bytes of the control memory that all ranks share: the counters, the ring
  /// buffers for messages, then two staging slots a rank.
  [[nodiscard]] static std::size_t control_bytes(int world_size);

  SharedMemoryTransport(std::shared_ptr<native::SharedMemory> control, int rank, int world_size);

  [[nodiscard]] SharedMemoryCounters& counters() noexcept { return counters_; }
  [[nodiscard]] int rank() const noexcept { return counters_.rank(); }
  [[nodiscard]] int world_size() const noexcept { return counters_.world_size(); }

  // --- staging: ordinary tensors pass through slots, a chunk at a time ---
  // Two slots take turns. A rank that fills one for chunk k has completed chunk k - 1. All ranks
  // had arrived there after completing chunk k - 2, the last one that used this slot.
  [[nodiscard]] std::size_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] std::byte* slot(int rank, std::uint64_t turn) const;
  [[nodiscard]] std::uint64_t next_turn() noexcept { return turn_++; }

  [[nodiscard]] SharedMemoryMessages& messages() noexcept { return messages_; }

  // --- registered memory: one block a rank in every allocation, at the same distance ---
  struct Place {
    std::shared_ptr<native::SharedMemory> memory;
    std::size_t block_bytes = 0;
    std::size_t offset = 0;  ///< within a block
    /// The allocation's number and the offset: the same on all ranks for the same place.
    std::uint64_t number = 0;

    [[nodiscard]] std::byte* of(int rank) const {
      return memory->data() + static_cast<std::size_t>(rank) * block_bytes + offset;
    }
  };

  [[nodiscard]] static std::size_t block_bytes_for(std::size_t bytes);
  /// Enters an allocation; returns this rank's block, whose lifetime the caller's reference to
  /// `memory` governs.
  [[nodiscard]] std::byte* register_memory(std::shared_ptr<native::SharedMemory> memory,
                                           std::size_t block_bytes);
  /// See `ProcessGroup::mark_indexed`. `data`: the beginning of this rank's block.
  void mark_indexed(const void* data);
  enum class Layout { SameOnAllRanks, Indexed };
  /// Where these bytes lie, when they lie in this rank's block of an allocation. Allocations that
  /// are marked as indexed are found only with `Layout::Indexed`.
  [[nodiscard]] std::optional<Place> find(const void* data, std::size_t bytes,
                                          Layout layout = Layout::SameOnAllRanks) const;
  /// The share of a slot that goes to one rank, where a slot holds something for each.
  [[nodiscard]] std::size_t part_bytes() const noexcept {
    return slot_bytes_ / static_cast<std::size_t>(world_size()) / 16 * 16;
  }

 private:
  struct Allocation {
    std::weak_ptr<native::SharedMemory> memory;
    std::byte* own_block;
    std::size_t block_bytes;
    std::uint64_t number;
    bool is_indexed = false;
  };

  std::shared_ptr<native::SharedMemory> control_;
  SharedMemoryCounters counters_;
  SharedMemoryMessages messages_;
  std::size_t slot_bytes_;
  std::byte* slots_;
  std::uint64_t turn_ = 0;
  std::vector<Allocation> allocations_;
  std::uint64_t allocated_ = 0;  // the same on all ranks
};

}  // namespace lockstep
