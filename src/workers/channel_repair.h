// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "workers/channel_layout.h"
#include "workers/claim_table.h"
#include "workers/failure_records.h"
#include "workers/task_items.h"

namespace lockstep::workers {

/// What becomes of a poison item: one that has ended two workers.
enum class Poison { Fails, IsLeftOut, IsReplaced };

/// Opens again what a worker that has ended had claimed, and decides about the item at which it
/// ended.
///
/// A view of shared memory. Thread-safety: one process repairs, after a worker has ended and before
/// another takes its number.
class ChannelRepair {
 public:
  ChannelRepair(const ChannelLayout& layout, const PoolEvents& events)
      : layout_(layout), claims_(layout, events), items_(layout), failures_(layout) {}

  /// How many workers an item may end, unless somebody says otherwise.
  static constexpr std::uint32_t kAttempts = 2;

  /// An item that was the current one at the end of `attempts` workers (1 to 255) becomes what
  /// `poison` says; one that is to be replaced, and ends three more, fails. A task at which as many
  /// ended while they were at none of its items (`CurrentItem::kNoItem`) fails.
  void repair(std::size_t worker, Poison poison, std::uint32_t attempts = kAttempts);

 private:
  /// A worker's end at a chunk that it had claimed.
  struct Death {
    std::size_t worker = 0;
    std::size_t slot = 0;
    std::size_t chunk = 0;
    std::optional<std::size_t> position;  ///< of the item; nothing: at none of the task's items
    bool is_collate = false;
    bool is_of_chunk = false;  ///< the chunk is one item, and the worker was at no other

    /// Of the item to blame, for the rank.
    [[nodiscard]] std::size_t blamed(std::size_t items_per_chunk) const;
  };

  void repair_chunk(std::size_t slot, std::size_t chunk, std::size_t worker, Poison poison,
                    std::uint32_t attempts);
  [[nodiscard]] Death death_at(std::size_t slot, std::size_t chunk, std::size_t worker,
                               std::size_t position) const;
  [[nodiscard]] std::uint32_t deaths_before(const Death& death);
  void leave_out(const Death& death);
  [[nodiscard]] bool try_to_replace(const Death& death, std::uint32_t before);
  void fail(const Death& death);

  ChannelLayout layout_;
  ClaimTable claims_;
  TaskItems items_;
  FailureRecords failures_;
};

}  // namespace lockstep::workers
