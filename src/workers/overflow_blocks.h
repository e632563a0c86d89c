// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <optional>

#include "native/posix/mapped_block.h"
#include "native/posix/shared_memory_region.h"
#include "workers/channel_layout.h"

namespace lockstep::workers {

/// Memory of a channel's region outside of its slots: overflow blocks, numbered within each task,
/// for a result that does not fit its slot and for items on their way from one worker to another.
/// Whoever makes a block says so before there is memory, so the block is given back whoever dies.
///
/// Thread-safety: `take_space` from any process or thread. A block is made, published and freed by
/// whoever has claimed the chunk that it belongs to, or the collate task; and by the owner of a
/// slot that is not Filling. Owns: nothing; the memory is the region's.
class OverflowBlocks {
 public:
  /// Numbers of a task's blocks: of its result, and of its first item.
  static constexpr std::size_t kResult = 0;
  static constexpr std::size_t kFirstItem = 1;

  /// `region` must outlive this object.
  OverflowBlocks(native::SharedMemoryRegion& region, const ChannelLayout& layout)
      : region_(region), layout_(layout) {}

  /// Room of the region behind the control part that nobody else has: its offset.
  [[nodiscard]] std::size_t take_space(std::size_t bytes);

  /// Frees what a worker left here that died with the same claim, and makes the block anew.
  /// Throws: `std::system_error` when the memory cannot be had, `std::out_of_range` where the
  /// channel's tasks have no such block; there is no block then.
  [[nodiscard]] native::MappedBlock make(std::size_t slot, std::size_t number, std::size_t bytes);
  /// It is all written: until then nobody else finds it.
  void publish(std::size_t slot, std::size_t number) noexcept;
  /// Nothing where there is none.
  /// Throws: `std::system_error` when it cannot be mapped.
  [[nodiscard]] std::optional<native::MappedBlock> map(std::size_t slot, std::size_t number);
  /// Does nothing where there is none.
  void free(std::size_t slot, std::size_t number) noexcept;
  /// Frees the blocks of the slot's task, from `first` on.
  void free_all(std::size_t slot, std::size_t first = kResult) noexcept;
  /// Leaves the block of the result to whoever has mapped it.
  void forget_result(std::size_t slot) noexcept;

 private:
  native::SharedMemoryRegion& region_;
  ChannelLayout layout_;
};

}  // namespace lockstep::workers
