// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/progress_queue.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <stdexcept>
#include <utility>

#include "core/exception_text.h"

namespace lockstep {
namespace {

// How long a sleeping rank may take to notice a peer's death. Far below the second that mpirun
// leaves the survivors.
constexpr std::chrono::milliseconds kHealthInterval{20};
// A rank that sleeps for one operation cannot see that another can make progress.
constexpr std::chrono::microseconds kSharedInterval{200};
// Sequence numbers of messages begin here; no program makes that many collectives.
constexpr std::uint64_t kFirstMessage = std::uint64_t{1} << 63;

/// Logs of several ranks are compared by the clock on the wall.
std::string time_text(std::chrono::duration<double> ago) {
  const auto now = std::chrono::system_clock::now();
  const std::time_t then = std::chrono::system_clock::to_time_t(
      now - std::chrono::duration_cast<std::chrono::system_clock::duration>(ago));
  std::tm parts{};
  char text[32] = "";
  if (::gmtime_r(&then, &parts) != nullptr) std::strftime(text, sizeof(text), "%H:%M:%S", &parts);
  return std::string(text) + " UTC";
}

std::string seconds_text(std::chrono::duration<double> duration) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", duration.count());
  return text;
}

}  // namespace

ProgressQueue::ProgressQueue(CommContext context,
                             std::function<void(const std::string&)> on_failure)
    : context_(std::move(context)),
      on_failure_(std::move(on_failure)),
      collectives_(PendingOperations::Order::Collectives, 0),
      messages_(PendingOperations::Order::Messages, kFirstMessage) {}

bool ProgressQueue::is_message(std::uint64_t sequence) noexcept {
  return sequence >= kFirstMessage;
}

std::uint64_t ProgressQueue::push(std::unique_ptr<Operation> operation, std::string op,
                                  std::chrono::milliseconds timeout) {
  if (failure_) std::rethrow_exception(failure_);
  const std::uint64_t sequence =
      collectives_.push({std::move(operation), std::move(op), Deadline::after(timeout)});
  progress();
  return sequence;
}

std::uint64_t ProgressQueue::push_message(std::unique_ptr<Operation> operation, std::string op,
                                          std::chrono::milliseconds timeout, std::uint64_t lane) {
  if (failure_) std::rethrow_exception(failure_);
  const std::uint64_t sequence =
      messages_.push({std::move(operation), std::move(op), Deadline::after(timeout), lane});
  progress();
  return sequence;
}

void ProgressQueue::progress() noexcept {
  advance(messages_);
  advance(collectives_);
}

void ProgressQueue::advance(PendingOperations& operations) noexcept {
  if (failure_ || operations.is_empty()) return;
  try {
    operations.advance();
  } catch (...) {
    fail_with_current_exception(operations.failed());
  }
}

void ProgressQueue::poll(std::uint64_t sequence) noexcept {
  progress();
  if (failure_ || is_done(sequence)) return;
  PendingOperations& operations = pending_of(sequence);
  const PendingOperation& next = operations.next_for(sequence);
  const Deadline& deadline = operations.at(sequence).deadline;
  if (deadline.has_passed()) return fail_with_timeout(next, deadline);
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll_ < kHealthInterval) return;
  last_poll_ = now;
  check_peers_of(next);
}

void ProgressQueue::fail_with_current_exception(const PendingOperation& pending) noexcept {
  try {
    throw;
  } catch (const OperationFailure& failure) {
    const PendingOperation& culprit = culprit_of(failure, pending);
    // Only the two ranks of a message find its failure.
    is_failure_shared_ =
        failure.kind == OperationFailure::Kind::Mismatch && !is_message(culprit.sequence);
    fail(translate(failure, context_of(culprit)));
  } catch (const std::runtime_error& error) {  // what native calls throw
    fail(translate({OperationFailure::Kind::Backend, error.what(), ""}, context_of(pending)));
  } catch (...) {
    fail(std::current_exception());
  }
}

const PendingOperation& ProgressQueue::culprit_of(const OperationFailure& failure,
                                                  const PendingOperation& pending) const {
  if (failure.culprit == nullptr) return pending;
  const PendingOperation* culprit = collectives_.find(failure.culprit);
  if (culprit == nullptr) culprit = messages_.find(failure.culprit);
  return culprit == nullptr ? pending : *culprit;
}

bool ProgressQueue::make_stream_wait(std::uint64_t sequence) noexcept {
  const PendingOperation& pending = pending_of(sequence).at(sequence);
  try {
    return pending.is_started && pending.operation->make_stream_wait();
  } catch (...) {
    fail_with_current_exception(pending);
  }
  return false;
}

bool ProgressQueue::is_alone(std::uint64_t sequence) const noexcept {
  // Collectives finish one after the other, so that others of them do not matter.
  if (!is_message(sequence)) return messages_.is_empty();
  return messages_.size() == 1 && collectives_.is_empty();
}

void ProgressQueue::wait(std::uint64_t sequence, std::optional<std::chrono::milliseconds> timeout) {
  std::optional<Deadline> own_deadline;
  if (timeout) own_deadline = Deadline::after(*timeout);
  while (true) {
    progress();
    if (is_done(sequence)) return;
    if (failure_) std::rethrow_exception(failure_);
    if (!timeout && make_stream_wait(sequence)) return;
    if (failure_) std::rethrow_exception(failure_);
    PendingOperations& operations = pending_of(sequence);
    const PendingOperation& next = operations.next_for(sequence);
    if (messages_.is_empty() && next.operation->spin()) continue;
    const Deadline& deadline = own_deadline ? *own_deadline : operations.at(sequence).deadline;
    if (deadline.has_passed()) {
      fail_with_timeout(next, deadline);
      continue;
    }
    const std::chrono::nanoseconds interval = is_alone(sequence)
                                                  ? std::chrono::nanoseconds(kHealthInterval)
                                                  : std::chrono::nanoseconds(kSharedInterval);
    next.operation->sleep(std::min(interval, deadline.remaining()));
    // A peer may have died after it did its part: what is complete without it must not fail.
    const std::uint64_t finished_before = collectives_.finished();
    progress();
    if (!failure_ && collectives_.finished() == finished_before && !is_done(sequence)) {
      check_peers_of(operations.next_for(sequence));
    }
  }
}

void ProgressQueue::wait_for_messages() {
  while (!messages_.is_empty()) {
    const PendingOperation& oldest = messages_.oldest();
    // With a limit, so that a message on a stream is waited for too.
    wait(oldest.sequence,
         std::chrono::ceil<std::chrono::milliseconds>(oldest.deadline.remaining()));
  }
}

void ProgressQueue::fail(const OperationFailure& failure, const std::string& op) {
  CommContext context = context_;
  context.op = op;
  context.sequence = pushed() + 1;
  if (!failure_) fail(translate(failure, context));
  std::rethrow_exception(failure_);
}

void ProgressQueue::check_peers_of(const PendingOperation& pending) {
  try {
    pending.operation->check_peers();
  } catch (...) {
    fail_with_current_exception(pending);
  }
}

CommContext ProgressQueue::context_of(const PendingOperation& pending) const {
  CommContext context = context_;
  context.op = pending.op;
  context.sequence = pending_of(pending.sequence).count_to(pending.sequence);
  return context;
}

void ProgressQueue::fail_with_timeout(const PendingOperation& pending,
                                      const Deadline& deadline) noexcept {
  std::string reason = "timed out after " + seconds_text(deadline.elapsed()) + ", waiting since " +
                       time_text(pending.deadline.elapsed()) + ": ";
  try {
    reason += pending.operation->describe_missing();
  } catch (const OperationFailure& failure) {  // a rank that has gone, or made another call
    reason += failure.reason;
  } catch (const std::exception& error) {
    reason += error.what();
  } catch (...) {
    reason += "which ranks are late is not known";
  }
  fail(std::make_exception_ptr(
      TimeoutError(context_of(pending), reason,
                   "that rank is slow, stopped, or took another path through the program")));
}

std::exception_ptr ProgressQueue::translate(const OperationFailure& failure,
                                            const CommContext& context) const {
  switch (failure.kind) {
    case OperationFailure::Kind::Mismatch:
      return std::make_exception_ptr(MismatchError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::PeerLost:
    case OperationFailure::Kind::ConnectionLost:
      return std::make_exception_ptr(PeerLostError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::Timeout:
      return std::make_exception_ptr(TimeoutError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::Backend:
      break;
  }
  return std::make_exception_ptr(CommError(context, failure.reason, failure.hint));
}

void ProgressQueue::fail(const std::exception_ptr& failure) noexcept {
  if (failure_) return;
  failure_ = failure;
  // The operations stay: peers may still read memory that they own, and their tensors must not be
  // reused meanwhile.
  if (!is_failure_shared_) on_failure_(exception_text(failure, "unknown error"));
}

}  // namespace lockstep
