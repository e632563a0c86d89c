// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "workers/channel_layout.h"

namespace lockstep::workers {

/// The items of the tasks in a channel's slots: numbers, which workers may leave out or replace.
///
/// A view of shared memory. Thread-safety: the owner reads an item at any time; a worker that has
/// claimed an item's chunk, or the collate task, changes the item.
class TaskItems {
 public:
  explicit TaskItems(const ChannelLayout& layout) : layout_(layout) {}

  [[nodiscard]] std::span<const std::int64_t> of(std::size_t slot) const;
  /// One of them, as it is now: its number, `kLeftOut`, or what `to_be_replaced` says.
  [[nodiscard]] std::int64_t at(std::size_t slot, std::size_t position) const;
  /// How many were replaced.
  [[nodiscard]] std::size_t replaced(std::size_t slot) const;
  /// Whether the chunk of this item was skipped.
  [[nodiscard]] bool is_skipped(std::size_t slot, std::size_t position) const;
  /// Whether the item was left out, with its chunk or alone.
  [[nodiscard]] bool is_left_out(std::size_t slot, std::size_t position) const;

  /// Fills a slot that no worker can claim.
  void assign(std::size_t slot, std::span<const std::int64_t> items);
  /// The task goes on without this item,
  void leave_out(std::size_t slot, std::size_t position);
  /// or with another one in its place.
  void replace(std::size_t slot, std::size_t position, std::int64_t item);
  /// Whoever claims the item's chunk next finds that another one shall replace `item`.
  void mark_to_be_replaced(std::size_t slot, std::size_t position, std::int64_t item);

 private:
  void set(std::size_t slot, std::size_t position, std::int64_t word);

  ChannelLayout layout_;
};

}  // namespace lockstep::workers
