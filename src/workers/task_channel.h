// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "native/posix/file_descriptor.h"
#include "native/posix/shared_memory_region.h"
#include "workers/channel_layout.h"
#include "workers/channel_repair.h"
#include "workers/claim_table.h"
#include "workers/failure.h"
#include "workers/failure_records.h"
#include "workers/overflow_blocks.h"
#include "workers/task.h"
#include "workers/task_items.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// Hands tasks (lists of item numbers) to workers and brings word back, through a shared memory
/// region that all processes map. All workers work at the oldest task together, chunk by chunk.
///
/// The channel conducts its parts, each of which is a view of the region's control part:
/// `ClaimTable` says who works at what, `PoolEvents` lets processes sleep and wakes them,
/// `TaskItems`, `FailureRecords` and `OverflowBlocks` hold what a task consists of and what becomes
/// of it, and `ChannelRepair` takes back what a dead worker had claimed.
///
/// Thread-safety: one owner thread; `release` from any thread of the owner; any number of workers,
/// processes or threads; one process that repairs, after a worker has ended and before another
/// takes its number. Owns: the region, of which each process has an object of its own.
class TaskChannel {
 public:
  /// Throws: `std::system_error` when the memory cannot be had.
  explicit TaskChannel(const ChannelShape& shape);
  /// Another process's channel, by its region's descriptor.
  /// Throws: `std::system_error` when there is no such channel behind it.
  explicit TaskChannel(native::FileDescriptor descriptor);

  [[nodiscard]] native::SharedMemoryRegion& region() noexcept { return region_; }
  [[nodiscard]] std::byte* user_area() const noexcept { return layout_.user_area(); }
  [[nodiscard]] std::size_t slots() const noexcept { return layout_.shape().slots; }
  [[nodiscard]] std::size_t workers() const noexcept { return layout_.shape().workers; }
  [[nodiscard]] std::size_t items_per_slot() const noexcept {
    return layout_.shape().items_per_slot;
  }
  [[nodiscard]] const WorkerTable& table() const noexcept { return table_; }
  [[nodiscard]] const PoolEvents& events() const noexcept { return table_.events; }
  [[nodiscard]] TaskItems& items() noexcept { return items_; }
  [[nodiscard]] FailureRecords& failures() noexcept { return failures_; }
  [[nodiscard]] OverflowBlocks& blocks() noexcept { return blocks_; }

  // Both sides.
  [[nodiscard]] SlotState state(std::size_t slot) const;
  [[nodiscard]] std::uint64_t sequence(std::size_t slot) const;
  [[nodiscard]] std::uint64_t word(std::size_t slot, std::size_t number) const;
  /// The only worker that may have the task; nothing: any may.
  [[nodiscard]] std::optional<std::size_t> worker(std::size_t slot) const;
  /// The caller's word about the result; whoever has claimed the only chunk, or the collate task,
  /// may write it. 0 at first.
  [[nodiscard]] std::uint64_t result(std::size_t slot) const;
  void set_result(std::size_t slot, std::uint64_t value);

  // The owner's side.
  // Workers wrote last to what the owner looks at; these fetch it into the cache meanwhile.
  void prefetch_states() const noexcept;
  void prefetch_slot(std::size_t slot, std::size_t items) const noexcept;
  /// Fills a Free slot; `PoolEvents::wake_workers` tells of it.
  void assign(std::size_t slot, const Task& task);
  /// Asks for no more work on a Filling slot; true when no worker is at it: it is Free then. Asked
  /// again later otherwise.
  [[nodiscard]] bool withdraw(std::size_t slot);
  /// Takes back a task of one item that nobody has begun, also from a Filling slot: the slot is
  /// Free then. False when somebody has begun it.
  [[nodiscard]] bool take_back(std::size_t slot);
  /// Gives the task to this worker alone. No other may have claimed any of it.
  void set_worker(std::size_t slot, std::size_t worker);
  void hold(std::size_t slot);
  void release(std::size_t slot) noexcept;
  /// Chunks of a Filling slot that are finished, and items within them.
  [[nodiscard]] std::uint64_t progress(std::size_t slot) const;
  /// Worker that has claimed a chunk of a Filling slot, the first if there are several.
  [[nodiscard]] std::optional<std::size_t> claimer(std::size_t slot) const;

  // A worker's side.
  /// Blocks: until there is something to do, or the worker shall end (nothing returned).
  [[nodiscard]] std::optional<Claim> claim(std::size_t worker);
  /// Whether what this claim gives is of no use: the task was withdrawn, or an earlier item failed.
  [[nodiscard]] bool is_futile(const Claim& claim) const;
  /// Gives the claim back where something before it is open again, because a worker has ended, and
  /// says so. To be asked by a worker that waits for what comes before its claim: if all did only
  /// that, nobody would be left to do it.
  [[nodiscard]] bool give_back_for_older(const Claim& claim, std::size_t worker);
  /// Says which item the worker is at, from now on.
  void begin_item(std::size_t worker, std::size_t slot, std::size_t position);
  void end_item(std::size_t worker);
  void finish(const Claim& claim);
  void fail(const Claim& claim, const Failure& failure);
  /// Sleeps until there is news for workers after `seen` (`PoolEvents::work_count`). Blocks: at
  /// most `PoolEvents::kSlice`.
  void wait_for_work(std::size_t worker, std::uint32_t seen) const;

  // The repairer's side.
  /// `ChannelRepair::repair`.
  void repair(std::size_t worker, Poison poison, std::uint32_t attempts = ChannelRepair::kAttempts);

 private:
  native::SharedMemoryRegion region_;
  ChannelLayout layout_;
  WorkerTable table_{PoolEvents(layout_.events()), layout_.workers()};
  TaskItems items_{layout_};
  ClaimTable claims_{layout_, table_.events};
  FailureRecords failures_{layout_};
  OverflowBlocks blocks_{region_, layout_};
  ChannelRepair repair_{layout_, table_.events};
};

}  // namespace lockstep::workers
