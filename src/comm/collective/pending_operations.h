// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "comm/collective/operation.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// An operation under way, with what its queue knows about it.
struct PendingOperation {
  std::unique_ptr<Operation> operation;
  std::string op;
  Deadline deadline;
  std::uint64_t lane = 0;      // of a message
  std::uint64_t sequence = 0;  // set by `PendingOperations::push`
  bool is_started = false;
};

/// The operations of one kind that are under way in a group, oldest first.
///
/// Thread-safety: one thread at a time.
class PendingOperations {
 public:
  enum class Order {
    Collectives,  ///< each is started after those before it, and the oldest is finished first
    Messages,  ///< each is started after those before it in its lane, and finished when it can be
  };

  /// Sequence numbers begin at `first_sequence`.
  PendingOperations(Order order, std::uint64_t first_sequence)
      : order_(order), first_(first_sequence), next_(first_sequence) {}

  /// Returns the operation's sequence number.
  std::uint64_t push(PendingOperation pending);
  /// Makes all progress that is possible now. Throws: what an operation throws.
  void advance();
  /// The operation that an error of the last `advance` is about, unless the error names another
  /// (`OperationFailure::culprit`): the message that made progress; of collectives, the oldest.
  [[nodiscard]] const PendingOperation& failed() const { return pending_[current_]; }

  [[nodiscard]] bool is_empty() const noexcept { return pending_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return pending_.size(); }
  [[nodiscard]] const PendingOperation& oldest() const { return pending_.front(); }
  [[nodiscard]] std::uint64_t pushed() const noexcept { return next_ - first_; }
  [[nodiscard]] std::uint64_t finished() const noexcept { return pushed() - pending_.size(); }

  [[nodiscard]] bool is_done(std::uint64_t sequence) const noexcept;
  /// `sequence`: of an operation that is not done.
  [[nodiscard]] PendingOperation& at(std::uint64_t sequence);
  /// The operation that must finish next for that one to be done.
  [[nodiscard]] const PendingOperation& next_for(std::uint64_t sequence);
  /// Null where it is none of these.
  [[nodiscard]] const PendingOperation* find(const Operation* operation) const;
  /// How many operations of this kind were pushed up to that one.
  [[nodiscard]] std::uint64_t count_to(std::uint64_t sequence) const noexcept {
    return sequence - first_ + 1;
  }

 private:
  void advance_collectives();
  void advance_messages();

  Order order_;
  std::uint64_t first_;
  std::uint64_t next_;
  std::deque<PendingOperation> pending_;
  std::size_t current_ = 0;
};

}  // namespace lockstep
