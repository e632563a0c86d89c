// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "native/posix/memory_ring.h"
#include "workers/worker_board.h"

namespace lockstep::workers {

/// A slot's way: Free -> Assigned (owner) -> Claimed (worker) -> Ready or Failed (worker) -> Held
/// (owner) -> Free. The owner also takes Assigned, Ready and Failed slots back to Free, and Claimed
/// ones of dead workers.
enum class SlotState : std::uint32_t { Free, Assigned, Claimed, Ready, Failed, Held };

/// Hands tasks (lists of item numbers) to workers and brings word back, through a memory ring that
/// all processes map.
///
/// There is no lock in shared memory: a claim is one compare-and-swap of the slot's state word,
/// which names the claimer, so there is no moment at which a killed worker has taken something that
/// nobody can see. Everything else in a slot belongs to whoever the state word says.
///
/// Thread-safety: one owner thread; `release` from any thread of the owner; any number of worker
/// processes. Owns: the ring's control part while it lives; the memory itself belongs to the ring.
class SharedMemoryChannel {
 public:
  struct Shape {
    std::size_t slots = 0;
    std::size_t workers = 0;
    std::size_t items_per_slot = 0;
    std::size_t user_bytes = 0;  ///< room for the caller's own words, 64-byte aligned, zeroed
  };
  struct Failure {
    std::size_t position = 0;  ///< of the item within the task
    std::string message;
  };

  /// Throws: `std::system_error` when the memory cannot be had.
  explicit SharedMemoryChannel(const Shape& shape);

  [[nodiscard]] native::MemoryRing& ring() noexcept { return ring_; }
  [[nodiscard]] std::byte* user_area() const noexcept { return user_area_; }
  [[nodiscard]] WorkerBoard board() const noexcept { return board_; }
  [[nodiscard]] std::size_t slots() const noexcept { return shape_.slots; }

  // Both sides.
  [[nodiscard]] SlotState state(std::size_t slot) const;
  [[nodiscard]] std::uint64_t sequence(std::size_t slot) const;
  [[nodiscard]] std::span<const std::int64_t> items(std::size_t slot) const;

  // The owner's side.
  /// Fills a Free slot and wakes the workers. Of several Assigned slots they take the lowest
  /// sequence first.
  void assign(std::size_t slot, std::uint64_t sequence, std::span<const std::int64_t> items);
  /// Takes back an Assigned slot; false when a worker was faster.
  [[nodiscard]] bool withdraw(std::size_t slot);
  /// Asks the claimer to finish early; what it delivers is of no use.
  void cancel(std::size_t slot);
  void hold(std::size_t slot);
  void release(std::size_t slot) noexcept;
  [[nodiscard]] std::optional<std::size_t> claimer(std::size_t slot) const;
  /// Worker that made a slot Ready or Failed.
  [[nodiscard]] std::size_t finisher(std::size_t slot) const;
  [[nodiscard]] std::size_t progress(std::size_t slot) const;
  [[nodiscard]] Failure failure(std::size_t slot) const;
  [[nodiscard]] std::uint32_t done_count() const;
  /// Sleeps until `done_count()` is no longer `seen`. Blocks: at most `limit`.
  void wait_done(std::uint32_t seen, std::chrono::nanoseconds limit) const;

  // A worker's side.
  /// Blocks: until there is something to do or the pool stops (nothing returned).
  [[nodiscard]] std::optional<std::size_t> claim(std::size_t worker);
  [[nodiscard]] bool is_cancelled(std::size_t slot) const;
  [[nodiscard]] bool is_stopping() const;
  void set_progress(std::size_t slot, std::size_t items_done);
  void finish(std::size_t slot);
  void fail(std::size_t slot, std::size_t position, std::string_view message);
  [[nodiscard]] std::uint32_t work_count() const;
  void wait_work(std::uint32_t seen, std::chrono::nanoseconds limit) const;
  void wake_workers();
  void wake_owner();

 private:
  struct Slot;

  [[nodiscard]] Slot& at(std::size_t slot) const noexcept;
  [[nodiscard]] std::int64_t* items_of(std::size_t slot) const noexcept;
  [[nodiscard]] std::optional<std::size_t> try_claim(std::size_t worker);

  Shape shape_;
  std::size_t slot_stride_;
  native::MemoryRing ring_;
  WorkerBoard board_;
  std::byte* slots_ = nullptr;
  std::byte* user_area_ = nullptr;
};

}  // namespace lockstep::workers
