// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/shared_memory/messages.h"
#include "comm/shared_memory/rounds.h"
#include "native/posix/shared_memory.h"

namespace lockstep {

/// What the operations of one shared-memory group work with: the rounds, the staging slots for
/// ordinary tensors, and the group memory that tensors of `ProcessGroup::allocate` lie in.
///
/// Thread-safety: as the group's.
class SharedMemoryTransport {
 public:
  /// Bytes of the control memory that all ranks share: the counters, the pipes for
  /// messages, then two staging slots a rank.
  [[nodiscard]] static std::size_t control_bytes(int world_size);

  SharedMemoryTransport(std::shared_ptr<native::SharedMemory> control, int rank, int world_size);

  [[nodiscard]] SharedMemoryRounds& rounds() noexcept { return rounds_; }
  [[nodiscard]] int rank() const noexcept { return rounds_.rank(); }
  [[nodiscard]] int world_size() const noexcept { return rounds_.world_size(); }

  // --- staging: ordinary tensors pass through slots, a chunk at a time ---
  // Two slots take turns. Whoever fills one for chunk k has completed chunk k - 1, at which
  // everybody had arrived after completing chunk k - 2, the last to use that slot.
  [[nodiscard]] std::size_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] std::byte* slot(int rank, std::uint64_t turn) const;
  [[nodiscard]] std::uint64_t next_turn() noexcept { return turn_++; }

  [[nodiscard]] SharedMemoryMessages& messages() noexcept { return messages_; }

  // --- group memory: one block a rank in every piece, at the same distance ---
  struct Place {
    std::shared_ptr<native::SharedMemory> memory;
    std::size_t block_bytes = 0;
    std::size_t offset = 0;  ///< within a block
    std::uint64_t number =
        0;  ///< the piece's number and the offset: the same on all ranks for the same place

    [[nodiscard]] std::byte* of(int rank) const {
      return memory->data() + static_cast<std::size_t>(rank) * block_bytes + offset;
    }
  };

  [[nodiscard]] static std::size_t block_bytes_for(std::size_t bytes);
  /// Enters a piece; returns this rank's block, whose lifetime the caller's reference to `memory`
  /// governs.
  [[nodiscard]] std::byte* add_group_memory(std::shared_ptr<native::SharedMemory> memory,
                                            std::size_t block_bytes);
  /// What lies in there may lie elsewhere on other ranks, and does so on purpose.
  void mark_places_as_free(const void* data);
  enum class Places { SameOnAllRanks, Free };
  /// Where these bytes lie, when they lie in this rank's block of a piece. Of a piece whose places
  /// are free only if the caller says that it can take them so.
  [[nodiscard]] std::optional<Place> find(const void* data, std::size_t bytes,
                                          Places places = Places::SameOnAllRanks) const;
  /// The share of a slot that goes to one rank, where a slot holds something for each.
  [[nodiscard]] std::size_t part_bytes() const noexcept {
    return slot_bytes_ / static_cast<std::size_t>(world_size()) / 16 * 16;
  }

 private:
  struct Piece {
    std::weak_ptr<native::SharedMemory> memory;
    std::byte* own_block;
    std::size_t block_bytes;
    std::uint64_t number;
    bool are_places_free = false;
  };

  std::shared_ptr<native::SharedMemory> control_;
  SharedMemoryRounds rounds_;
  SharedMemoryMessages messages_;
  std::size_t slot_bytes_;
  std::byte* slots_;
  std::uint64_t turn_ = 0;
  std::vector<Piece> pieces_;
  std::uint64_t made_pieces_ = 0;  // the same on all ranks
};

}  // namespace lockstep
