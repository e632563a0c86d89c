// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "native/posix/shared_memory_region.h"
#include "workers/worker_table.h"

namespace lockstep::workers {

/// A slot's way: Free -> Filling (owner) -> Ready (whoever finishes the last chunk) -> Held (owner)
/// -> Free. The owner also takes Ready slots straight back to Free.
enum class SlotState : std::uint32_t { Free, Filling, Ready, Held };

/// A task: items, cut into chunks that are claimed one by one. With a collate task, whoever finds
/// all others finished claims the items as a whole once more, to make something of what has become
/// of them.
struct Task {
  static constexpr std::int32_t kAnybody = -1;
  static constexpr std::size_t kWords = 5;

  std::uint64_t sequence = 0;  ///< never used again; workers take the lowest first
  std::span<const std::int64_t> items;
  std::size_t items_per_chunk = 1;
  bool has_collate_task = false;
  std::int32_t worker = kAnybody;             ///< the only one that may claim it
  std::array<std::uint64_t, kWords> words{};  ///< the caller's own
};

/// What a worker has claimed: `items` of slot `slot`, from `first` on.
struct Claim {
  std::size_t slot = 0;
  std::size_t chunk = 0;
  std::size_t first = 0;
  std::span<const std::int64_t> items;
  bool is_collate = false;
};

/// How an item came to nothing.
enum class FailureKind : std::uint32_t { Exception, Ended, NoProgress, TooMuchMemory };

struct Failure {
  FailureKind kind = FailureKind::Exception;
  std::size_t position = 0;  ///< of the item within the task
  std::size_t worker = 0;
  int pid = 0;
  int wait_status = 0;     ///< of a worker that ended
  std::int64_t item = -1;  ///< of a note: the task's item may be another one by now
  std::string type;        ///< of the exception
  std::string message;
};

/// What becomes of an item that has ended two workers.
enum class Poison { Fails, IsLeftOut, IsReplaced };

/// Hands tasks (lists of item numbers) to workers and brings word back, through a shared memory
/// region that all processes map. All workers work at the oldest task together, chunk by chunk.
///
/// There is no lock in shared memory: a claim is one compare-and-swap of the chunk's word, which
/// names the claimer, so there is no moment at which a killed worker has taken something that
/// nobody can see. `repair` puts such a chunk back. Counters are hints; what is true stands in the
/// chunks' words.
///
/// Thread-safety: one owner thread; `release` from any thread of the owner; any number of workers,
/// processes or threads; one process that repairs, after a worker has ended and before another
/// takes its number. Owns: the region's control part while it lives; the memory itself belongs to
/// the region.
class SharedMemoryChannel {
 public:
  /// How long a process may sleep before it looks around by itself: a lost wake-up costs no more
  /// than this.
  static constexpr std::chrono::milliseconds kSlice{100};

  struct Shape {
    std::size_t slots = 0;
    std::size_t workers = 0;
    std::size_t items_per_slot = 0;
    std::size_t user_bytes = 0;  ///< room for the caller's own words, 64-byte aligned, zeroed
    bool has_item_blocks = false;
  };
  /// Numbers of a task's overflow blocks: of its result, where that does not fit the slot, and of
  /// the first item.
  static constexpr std::size_t kResultBlock = 0;
  static constexpr std::size_t kItemBlocks = 1;

  /// Throws: `std::system_error` when the memory cannot be had.
  explicit SharedMemoryChannel(const Shape& shape);
  /// Another process's channel, by its region's descriptor.
  /// Throws: `std::system_error` when there is no such channel behind it.
  explicit SharedMemoryChannel(native::FileDescriptor descriptor);

  [[nodiscard]] native::SharedMemoryRegion& region() noexcept { return region_; }
  [[nodiscard]] std::byte* user_area() const noexcept { return user_area_; }
  [[nodiscard]] WorkerTable table() const noexcept { return table_; }
  [[nodiscard]] std::size_t slots() const noexcept { return shape_.slots; }
  [[nodiscard]] std::size_t workers() const noexcept { return shape_.workers; }
  [[nodiscard]] std::size_t items_per_slot() const noexcept { return shape_.items_per_slot; }

  // Both sides.
  [[nodiscard]] SlotState state(std::size_t slot) const;
  [[nodiscard]] std::uint64_t sequence(std::size_t slot) const;
  [[nodiscard]] std::span<const std::int64_t> items(std::size_t slot) const;
  /// One of them, as it is now: workers may leave items out, or replace them.
  [[nodiscard]] std::int64_t item(std::size_t slot, std::size_t position) const;
  [[nodiscard]] std::uint64_t word(std::size_t slot, std::size_t number) const;
  /// The caller's word about the result; whoever has claimed the only chunk, or the collate task,
  /// may set it.
  [[nodiscard]] std::uint64_t result(std::size_t slot) const;
  void set_result(std::size_t slot, std::uint64_t value);
  /// Room of the region behind the control part that nobody else has: its offset.
  [[nodiscard]] std::size_t take_space(std::size_t bytes);
  /// Overflow block `number` of the slot's task; whoever has claimed the chunk that it belongs to
  /// makes it, and frees what a worker left there that died in here.
  /// Throws: `std::system_error` when the memory cannot be had; there is no block then.
  [[nodiscard]] native::MappedBlock make_block(std::size_t slot, std::size_t number,
                                               std::size_t bytes);
  /// It is all written: until then nobody else finds it.
  void publish_block(std::size_t slot, std::size_t number) noexcept;
  /// Nothing where there is none.
  [[nodiscard]] std::optional<native::MappedBlock> map_block(std::size_t slot, std::size_t number);
  void free_block(std::size_t slot, std::size_t number) noexcept;
  /// Those of the slot's task from `first` on, for whoever has claimed the collate task or owns a
  /// slot that is not Filling.
  void free_blocks(std::size_t slot, std::size_t first = kResultBlock) noexcept;
  /// Position of the first item known to have failed.
  [[nodiscard]] std::optional<std::size_t> first_failed(std::size_t slot) const;

  // The owner's side.
  // Workers wrote last to what the owner looks at; these fetch it into the cache meanwhile.
  void expect_states() const noexcept;
  void expect_assign(std::size_t slot, std::size_t items) const noexcept;
  /// Fills a Free slot; `wake_workers` tells of it.
  void assign(std::size_t slot, const Task& task);
  /// Asks for no more work on a Filling slot; true when no worker is at it: it is Free then. Asked
  /// again later otherwise.
  [[nodiscard]] bool withdraw(std::size_t slot);
  void hold(std::size_t slot);
  void release(std::size_t slot) noexcept;
  /// Chunks of a Filling slot that are finished, and items within them.
  [[nodiscard]] std::uint64_t progress(std::size_t slot) const;
  /// Worker that has claimed a chunk of a Filling slot, the first if there are several.
  [[nodiscard]] std::optional<std::size_t> claimer(std::size_t slot) const;
  /// Of a Ready slot: the failure with the lowest position.
  [[nodiscard]] std::optional<Failure> failure(std::size_t slot) const;
  /// Whether the chunk of this item was left out (`repair`).
  [[nodiscard]] bool is_skipped(std::size_t slot, std::size_t position) const;
  /// Whether it was left out, with its chunk or alone.
  [[nodiscard]] bool is_left_out(std::size_t slot, std::size_t position) const;
  /// How many of the task's items were replaced.
  [[nodiscard]] std::size_t replaced(std::size_t slot) const;
  /// What a worker noted about the task.
  [[nodiscard]] std::optional<Failure> noted(std::size_t slot) const;
  [[nodiscard]] std::uint32_t done_count() const;
  /// Sleeps until `done_count()` is no longer `seen`, which it was when the owner found that the
  /// task with number `sequence` (PoolEventWords::kAny - 1: any) was not finished. Blocks: at most
  /// `limit`, and never longer than `kSlice`.
  void wait_done(std::uint32_t seen, std::uint64_t sequence,
                 std::chrono::nanoseconds limit = kSlice) const;
  [[nodiscard]] bool has_sleepers() const;
  void wake_workers();

  // A worker's side.
  /// Blocks: until there is something to do, or the worker shall end (nothing returned).
  [[nodiscard]] std::optional<Claim> claim(std::size_t worker);
  /// Whether what this claim gives is of no use: the task was withdrawn, or an earlier item failed.
  [[nodiscard]] bool is_futile(const Claim& claim) const;
  [[nodiscard]] bool is_stopping() const;
  /// Says which item the worker is at, from now on; nothing: none.
  void begin_item(std::size_t worker, std::size_t slot, std::size_t position);
  void end_item(std::size_t worker);
  void finish(const Claim& claim);
  void fail(const Claim& claim, const Failure& failure);
  /// Of an item of a chunk that the worker has claimed: the task goes on without it, or with
  /// another one in its place.
  void leave_out(std::size_t slot, std::size_t position);
  void replace(std::size_t slot, std::size_t position, std::int64_t item);
  /// Keeps why that was, of the first such item of the task.
  void note(std::size_t slot, const Failure& failure);
  /// Sleeps until there is news for workers. Blocks: at most `kSlice`.
  [[nodiscard]] std::uint32_t work_count() const;
  void wait_work(std::size_t worker, std::uint32_t seen) const;
  void wake_owner();

  // The repairer's side.
  /// Opens again what `worker`, which has ended, had claimed. An item that was the
  /// current one at the end of two workers becomes what `poison` says; one that is to be replaced,
  /// and ends three more, fails. A task at which two ended while they were at none of its items
  /// (`kNoItem`) fails.
  void repair(std::size_t worker, Poison poison);

 private:
  struct Header;
  struct Chunks;
  struct Slot;
  struct FailureRecord;
  struct BlockWords;

  void lay_out(bool is_new);
  [[nodiscard]] Slot& at(std::size_t slot) const noexcept;
  [[nodiscard]] std::atomic<std::uint32_t>* chunks_of(std::size_t slot) const noexcept;
  // By chunk: position + 1 of the item at which a worker ended; for the repairer.
  [[nodiscard]] std::uint32_t* ends_of(std::size_t slot) const noexcept;
  [[nodiscard]] std::int64_t* items_of(std::size_t slot) const noexcept;
  [[nodiscard]] FailureRecord* failure_records_of(std::size_t slot) const noexcept;
  [[nodiscard]] BlockWords* blocks_of(std::size_t slot) const noexcept;
  [[nodiscard]] std::size_t blocks() const noexcept;
  [[nodiscard]] std::size_t chunks() const noexcept;
  [[nodiscard]] std::size_t failure_records() const noexcept;
  [[nodiscard]] std::size_t stride() const noexcept;
  [[nodiscard]] std::optional<Claim> try_claim(std::size_t worker);
  [[nodiscard]] std::optional<Claim> claim_chunk(std::size_t slot, std::size_t worker);
  [[nodiscard]] bool are_final(std::size_t slot, std::size_t chunks) const;
  [[nodiscard]] bool is_collate_due(std::size_t slot) const;
  [[nodiscard]] bool may_have(const Slot& target, std::size_t worker) const;
  [[nodiscard]] bool take_chunk(std::size_t slot, std::size_t chunk, std::size_t worker);
  [[nodiscard]] Claim claim_of(std::size_t slot, std::size_t chunk) const;
  void conclude(std::size_t slot, std::size_t chunk, std::uint32_t state);
  void complete_if_all_done(std::size_t slot);
  void set_item(std::size_t slot, std::size_t position, std::int64_t item);
  void write_failure(std::size_t slot, const Failure& failure);
  void fill_record(std::size_t slot, std::size_t number, const Failure& failure);
  void read_record(std::size_t slot, std::size_t number, Failure& failure) const;
  void repair_chunk(std::size_t slot, std::size_t chunk, std::size_t worker, Poison poison);

  Shape shape_;
  std::size_t slot_stride_ = 0;
  native::SharedMemoryRegion region_;
  Header* header_ = nullptr;
  WorkerTable table_;
  std::byte* slots_ = nullptr;       // the words of all slots, side by side
  std::byte* slot_parts_ = nullptr;  // what else a slot has, a stride each
  std::byte* user_area_ = nullptr;
};

}  // namespace lockstep::workers
