// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/error.h>

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "comm/collective/operation.h"
#include "concurrency/deadline.h"
#include "native/posix/owning_process.h"

namespace lockstep {

/// The collectives of one group that are under way, oldest first, the messages under way, and the
/// group's first failure.
///
/// Step 6 of the gradient path: between the process group and one backend.
/// Thread-safety: one thread at a time.
class OperationQueue {
 public:
  /// `on_failure` is called once, with the text of the first failure unless all ranks find that
  /// themselves, so that the backend can tell the other ranks.
  OperationQueue(CommContext context, std::function<void(const std::string&)> on_failure);

  /// Returns the ticket by which the caller asks for this operation.
  std::uint64_t push(std::unique_ptr<Operation> operation, std::string op,
                     std::chrono::milliseconds timeout);

  /// The same for a message, which concerns two ranks only: it waits for no collective, and none
  /// waits for it. Messages are pushed forward in the order of their calls.
  /// `lane`: messages of one lane are started in the order of their calls.
  std::uint64_t push_message(std::unique_ptr<Operation> operation, std::string op,
                             std::chrono::milliseconds timeout, std::uint64_t lane);

  /// Pushes everything forward as far as possible now. Errors become the queue's failure.
  void progress() noexcept;
  /// The same for whoever asks again and again instead of waiting: also sees that the deadline of
  /// `ticket` has passed, or that a rank it needs has gone.
  void look(std::uint64_t ticket) noexcept;

  [[nodiscard]] bool is_done(std::uint64_t ticket) const noexcept;
  [[nodiscard]] const std::exception_ptr& failure() const noexcept { return failure_; }
  /// Whether every rank has found the same failure by itself, so that nobody need be told.
  [[nodiscard]] bool is_failure_shared() const noexcept { return is_failure_shared_; }

  /// Blocks: until the operation is done, something failed, or the deadline (its own, or `timeout`
  /// from now) passed. Of an operation on a stream, without `timeout`: until it is enqueued there.
  /// Throws: the queue's failure.
  void wait(std::uint64_t ticket, std::optional<std::chrono::milliseconds> timeout);
  /// Waits for every message, each until its own deadline. Throws: the queue's failure.
  void wait_for_messages();
  /// Ends the group with what was found outside of any operation. Throws: the queue's failure.
  [[noreturn]] void fail(const OperationFailure& failure, const std::string& op);
  /// The same with an error of the caller's, for later calls. Does nothing after a failure.
  void fail(const std::exception_ptr& failure) noexcept;

  /// False in a fork, whose copy must not be used.
  [[nodiscard]] bool is_in_its_process() const noexcept { return owner_.is_current(); }
  [[nodiscard]] bool has_entries() const noexcept {
    return !entries_.empty() || !messages_.empty();
  }
  [[nodiscard]] std::uint64_t pushed() const noexcept { return done_ + entries_.size(); }

 private:
  struct Entry {
    std::unique_ptr<Operation> operation;
    std::string op;
    Deadline deadline;
    bool is_started = false;
    std::uint64_t ticket = 0;
    std::uint64_t lane = 0;  // of a message
  };

  /// The entry that keeps `ticket` from being done: of a collective, the oldest one.
  [[nodiscard]] const Entry& entry_to_wait_for(std::uint64_t ticket) const;
  /// Whether waiting is left to the current stream; see `Operation::order_stream`.
  [[nodiscard]] bool order_stream(std::uint64_t ticket) noexcept;
  [[nodiscard]] const Deadline& deadline_of(std::uint64_t ticket) const;
  [[nodiscard]] CommContext context_of(const Entry& entry) const;
  /// The entry whose failure it is; `entry` was being pushed forward.
  [[nodiscard]] const Entry& culprit_of(const OperationFailure& failure, const Entry& entry) const;
  void advance();
  void advance_messages();
  void check_peers_of(const Entry& entry);
  void fail_with_timeout(const Entry& entry, const Deadline& deadline) noexcept;
  /// `entry`: what was under way.
  void fail_with_current_exception(const Entry& entry) noexcept;
  [[nodiscard]] std::exception_ptr translate(const OperationFailure& failure,
                                             const CommContext& context) const;

  CommContext context_;
  std::function<void(const std::string&)> on_failure_;
  std::deque<Entry> entries_;  // collectives
  std::list<Entry> messages_;
  std::uint64_t done_ = 0;
  std::uint64_t next_message_;
  std::chrono::steady_clock::time_point last_look_;
  std::exception_ptr failure_;
  bool is_failure_shared_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep
