// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "native/posix/mapped_block.h"
#include "workers/task_channel.h"

namespace lockstep::workers {

/// Where a block of a pool lies, and whose it is. Lies in shared memory, zeroed at first.
struct PoolBlockWords {
  std::atomic<std::uint64_t> state;   // a `PoolBlocks::State`, and above it the task of a Taken one
  std::atomic<std::uint64_t> offset;  // in the channel's region
  std::atomic<std::uint64_t> bytes;   // multiple of the page size
};

/// Blocks of shared memory for arguments and results that are too large for a slot. They are used
/// again and again, so that neither side pays for fresh pages.
///
/// Each worker has an arena of entries, from which it alone takes, and so has the owner of the
/// pool. Whoever takes a block writes its task's number beside it; the blocks of a worker that has
/// died, of tasks that are not over, are given back by `repair`.
///
///     None -> Taken -> Held (owner) -> Free -> Taken ...
///     Taken by a worker that has died -> Held (repair) -> None: it may have no memory yet
///
/// A view of the channel's user area; each process, and in it each thread that maps blocks, has one
/// of its own. Thread-safety: none, but for `give_back`, which any thread of the owner's may call.
class PoolBlocks {
 public:
  /// Memory of free blocks that an arena keeps for the next ones.
  static constexpr std::size_t kKept = std::size_t{64} << 20;

  struct Block {
    std::uint32_t entry = 0;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };

  /// One arena a worker, and the last is the owner's.
  [[nodiscard]] static std::size_t bytes_for(std::size_t workers, std::size_t entries) {
    return (workers + 1) * (entries * sizeof(PoolBlockWords) + sizeof(EntriesUsed));
  }
  PoolBlocks(std::shared_ptr<TaskChannel> channel, std::size_t entries);

  /// Entries of an arena that were ever in use: all of them come before this one. So whoever looks
  /// for one looks at as many as were in use at once.
  [[nodiscard]] std::size_t entries_used(std::size_t arena) const {
    return used_words(arena).load(std::memory_order_acquire);
  }
  [[nodiscard]] std::size_t owner_arena() const { return channel_->workers(); }
  [[nodiscard]] std::size_t arena_of(std::uint32_t entry) const { return entry / entries_; }

  /// Nothing when all entries are in use, or all but `spare`.
  /// Throws: `std::system_error` when the memory cannot be had.
  [[nodiscard]] std::optional<Block> take(std::size_t arena, std::size_t bytes, std::uint64_t task,
                                          std::size_t spare = 0);
  /// This process's mapping, which stays as long as anybody has it.
  /// Throws: `std::system_error` when it cannot be mapped.
  [[nodiscard]] std::shared_ptr<native::MappedBlock> map(std::uint32_t entry);
  [[nodiscard]] std::size_t bytes_of(std::uint32_t entry) const;
  /// The owner has taken over what a worker took.
  void hold(std::uint32_t entry) const;
  /// For the next task; with `to_system`, the memory goes back to the system.
  void give_back(std::uint32_t entry, bool to_system = false) const noexcept;
  /// Blocks that are taken or held.
  [[nodiscard]] std::size_t used(std::size_t arena) const;

  /// Of a worker that has died, before the channel is repaired: others may do its task at once.
  void repair(std::size_t arena) const;
  /// Gives the memory of all free blocks back to the system. No worker lives any more.
  void trim() const noexcept;

 private:
  enum class State : std::uint32_t { None, Free, Taken, Held };
  using EntriesUsed = std::atomic<std::uint64_t>;  // whoever takes from the arena writes it
  static constexpr int kStateBits = 2;

  [[nodiscard]] static State state_of(std::uint64_t word) {
    return static_cast<State>(word & ((1U << kStateBits) - 1));
  }
  [[nodiscard]] static std::uint64_t word_of(State state, std::uint64_t task = 0) {
    return task << kStateBits | static_cast<std::uint64_t>(state);
  }
  [[nodiscard]] PoolBlockWords& words(std::uint32_t entry) const {
    return reinterpret_cast<PoolBlockWords*>(channel_->user_area())[entry];
  }
  [[nodiscard]] EntriesUsed& used_words(std::size_t arena) const {
    auto* first = &words(static_cast<std::uint32_t>((channel_->workers() + 1) * entries_));
    return reinterpret_cast<EntriesUsed*>(first)[arena];
  }
  [[nodiscard]] std::uint32_t first_of(std::size_t arena) const {
    return static_cast<std::uint32_t>(arena * entries_);
  }
  [[nodiscard]] std::uint32_t end_of(std::size_t arena) const {
    return static_cast<std::uint32_t>(arena * entries_ + entries_used(arena));
  }
  [[nodiscard]] std::optional<std::uint32_t> free_entry(std::size_t arena, std::size_t bytes) const;
  [[nodiscard]] std::optional<std::uint32_t> empty_entry(std::size_t arena, std::uint64_t task);
  [[nodiscard]] std::size_t kept_bytes(std::size_t arena) const;
  [[nodiscard]] bool belongs_to_a_result(std::uint64_t task, std::size_t arena) const;

  std::shared_ptr<TaskChannel> channel_;
  std::size_t entries_;  // of an arena
  struct Mapping {
    std::uint64_t offset = 0;
    std::shared_ptr<native::MappedBlock> block;
  };
  std::vector<Mapping> mappings_;  // by entry, once it was mapped
};

}  // namespace lockstep::workers
