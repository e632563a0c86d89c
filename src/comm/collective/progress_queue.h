// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/error.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/collective/operation.h"
#include "comm/collective/pending_operations.h"
#include "concurrency/deadline.h"
#include "native/posix/owning_process.h"

namespace lockstep {

/// The collectives and the messages of one group that are under way, their deadlines, and the
/// group's first failure.
///
/// Step 6 of the gradient path: between the process group and one backend.
/// Thread-safety: one thread at a time.
/// Source: ucc_progress_queue.
class ProgressQueue {
 public:
  /// `on_failure` is called once, with the text of the first failure, so that the backend can tell
  /// the other ranks. It is not called where all ranks find the failure themselves.
  ProgressQueue(CommContext context, std::function<void(const std::string&)> on_failure);

  /// Returns the sequence number by which the caller asks for this operation.
  std::uint64_t push(std::unique_ptr<Operation> operation, std::string op,
                     std::chrono::milliseconds timeout);

  /// The same for a message, which concerns two ranks only: it waits for no collective, and no
  /// collective waits for it. Its sequence number is none of a collective.
  /// `lane`: messages of one lane are started in the order of their calls.
  std::uint64_t push_message(std::unique_ptr<Operation> operation, std::string op,
                             std::chrono::milliseconds timeout, std::uint64_t lane);

  /// Makes all progress that is possible now. Errors become the queue's failure.
  void progress() noexcept;
  /// Makes progress, for callers that ask again and again instead of waiting. Also notices that the
  /// deadline of operation `sequence` has passed, or that a rank which it needs has gone.
  void poll(std::uint64_t sequence) noexcept;

  [[nodiscard]] bool is_done(std::uint64_t sequence) const noexcept {
    return pending_of(sequence).is_done(sequence);
  }
  [[nodiscard]] const std::exception_ptr& failure() const noexcept { return failure_; }
  /// Whether every rank finds this failure by itself, so that no rank need be told.
  [[nodiscard]] bool is_failure_shared() const noexcept { return is_failure_shared_; }

  /// Blocks: until the operation is done, something failed, or the deadline (its own, or `timeout`
  /// from now) passed. For a stream operation without a `timeout`: until it is enqueued.
  /// Throws: the queue's failure.
  void wait(std::uint64_t sequence, std::optional<std::chrono::milliseconds> timeout);
  /// Waits for every message, each until its own deadline. Throws: the queue's failure.
  void wait_for_messages();
  /// Ends the group with an error that was found outside of any operation. Throws: the queue's
  /// failure.
  [[noreturn]] void fail(const OperationFailure& failure, const std::string& op);
  /// The same with an error of the caller's, for later calls. Does nothing after a failure.
  void fail(const std::exception_ptr& failure) noexcept;

  /// False in a fork, whose copy must not be used.
  [[nodiscard]] bool is_in_its_process() const noexcept { return owner_.is_current(); }
  [[nodiscard]] bool has_pending() const noexcept {
    return !collectives_.is_empty() || !messages_.is_empty();
  }
  /// How many collectives were pushed.
  [[nodiscard]] std::uint64_t pushed() const noexcept { return collectives_.pushed(); }

 private:
  [[nodiscard]] static bool is_message(std::uint64_t sequence) noexcept;
  [[nodiscard]] const PendingOperations& pending_of(std::uint64_t sequence) const noexcept {
    return is_message(sequence) ? messages_ : collectives_;
  }
  [[nodiscard]] PendingOperations& pending_of(std::uint64_t sequence) noexcept {
    return is_message(sequence) ? messages_ : collectives_;
  }
  /// Whether that operation is the only one under way of those that could make progress now.
  [[nodiscard]] bool is_alone(std::uint64_t sequence) const noexcept;
  /// Whether waiting is left to the current stream; see `Operation::make_stream_wait`.
  [[nodiscard]] bool make_stream_wait(std::uint64_t sequence) noexcept;
  [[nodiscard]] CommContext context_of(const PendingOperation& pending) const;
  /// The operation whose failure it is, found while `pending` made progress.
  [[nodiscard]] const PendingOperation& culprit_of(const OperationFailure& failure,
                                                   const PendingOperation& pending) const;
  void advance(PendingOperations& operations) noexcept;
  void check_peers_of(const PendingOperation& pending);
  void fail_with_timeout(const PendingOperation& pending, const Deadline& deadline) noexcept;
  /// `pending`: the operation that made progress when the exception was thrown.
  void fail_with_current_exception(const PendingOperation& pending) noexcept;
  [[nodiscard]] std::exception_ptr translate(const OperationFailure& failure,
                                             const CommContext& context) const;

  CommContext context_;
  std::function<void(const std::string&)> on_failure_;
  PendingOperations collectives_, messages_;
  std::chrono::steady_clock::time_point last_poll_;
  std::exception_ptr failure_;
  bool is_failure_shared_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep
