// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <optional>

#include "workers/channel_layout.h"
#include "workers/failure.h"

namespace lockstep::workers {

/// What workers say about items that failed, kept in the slots of a channel, and one note a task
/// about an item without which, or with another in place of which, the task goes on.
///
/// A view of shared memory. Thread-safety: workers write, several at a time; the owner reads what
/// the task in a slot has left there once the slot is Ready.
class FailureRecords {
 public:
  explicit FailureRecords(const ChannelLayout& layout) : layout_(layout) {}

  // A worker's side; also for whoever repairs what a dead worker had claimed.
  void write(std::size_t slot, const Failure& failure);
  /// Keeps what the first caller says about the slot's task.
  void note(std::size_t slot, const Failure& failure);

  /// Position of the first item known to have failed.
  [[nodiscard]] std::optional<std::size_t> first_failed(std::size_t slot) const;
  /// Whether an item before this position has failed.
  [[nodiscard]] bool has_failed_before(std::size_t slot, std::size_t position) const;

  // The owner's side.
  /// Before a task is assigned to a slot.
  void clear(std::size_t slot);
  /// Of a Ready slot: the failure with the lowest position.
  [[nodiscard]] std::optional<Failure> first(std::size_t slot) const;
  [[nodiscard]] std::optional<Failure> noted(std::size_t slot) const;

 private:
  [[nodiscard]] std::uint64_t sequence(std::size_t slot) const;

  ChannelLayout layout_;
};

}  // namespace lockstep::workers
