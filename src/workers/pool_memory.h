// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/payload.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "native/posix/owning_process.h"
#include "workers/pool_blocks.h"
#include "workers/task_channel.h"

namespace lockstep::workers {

class PoolTask;

/// The shared memory of a pool, as the owner of the pool sees it. Lives as long as the pool, and as
/// the blocks that the program holds.
///
/// Thread-safety: a block may be given back by any thread; everything else by one thread at a time.
/// Owns: the channel, together with the workers' side.
class PoolMemory : public std::enable_shared_from_this<PoolMemory> {
 public:
  /// Room in a slot for arguments, and as much for a result; a larger payload gets a block.
  static constexpr std::size_t kInline = 2048;
  /// Blocks that a worker may have beside those of results.
  static constexpr std::size_t kOutputs = 64;

  struct Shape {
    std::size_t slots = 0;
    std::size_t workers = 0;
    std::size_t leases = 0;

    /// Of each arena: a result in each slot, what the program holds, and outputs that are being
    /// written.
    [[nodiscard]] std::size_t entries() const { return slots + leases + kOutputs; }
  };

  explicit PoolMemory(const Shape& shape);

  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const std::shared_ptr<TaskChannel>& channel() const noexcept { return channel_; }
  [[nodiscard]] PoolBlocks& blocks() noexcept { return blocks_; }
  [[nodiscard]] std::byte* input(std::size_t slot) { return slot_memory(slot); }
  [[nodiscard]] std::byte* output(std::size_t slot) { return slot_memory(slot) + kInline; }

  /// A block of the owner's arena; empty when too many are in use.
  /// Throws: `std::system_error` when the memory cannot be had.
  [[nodiscard]] std::shared_ptr<PayloadMemory> take(std::size_t bytes, std::size_t spare);
  /// A block that a worker has filled, or a copy of it when the program holds `leases` already. A
  /// block that holds a frame is copied as far as the frame goes.
  /// Throws: `std::system_error` when it cannot be mapped, `std::bad_alloc`.
  [[nodiscard]] std::shared_ptr<PayloadMemory> hold(std::uint32_t entry, bool is_frame);
  /// Memory of this process alone with the same bytes.
  [[nodiscard]] static std::shared_ptr<PayloadMemory> copy(const std::byte* from,
                                                           std::size_t bytes);

  /// Gives a task that is finished its result: the bytes, or the memory that has them, and the
  /// blocks that it mentions. Throws: as `hold`; all of the blocks are given back then.
  void take_result(PoolTask& task, std::size_t slot);

  [[nodiscard]] std::size_t leased() const noexcept { return leased_.load(); }
  [[nodiscard]] std::size_t copied() const noexcept { return copied_.load(); }
  /// The workers are gone: free blocks go back to the system from now on.
  void close() noexcept;

 private:
  class HeldBlock;

  [[nodiscard]] std::shared_ptr<HeldBlock> make_held(std::uint32_t entry, bool is_lease);
  [[nodiscard]] std::byte* slot_memory(std::size_t slot);

  Shape shape_;
  std::shared_ptr<TaskChannel> channel_;
  PoolBlocks blocks_;
  native::OwningProcess process_;
  std::atomic<std::size_t> leased_{0};
  std::atomic<std::size_t> copied_{0};
  std::atomic<bool> is_closed_{false};
};

}  // namespace lockstep::workers
