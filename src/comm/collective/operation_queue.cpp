// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/operation_queue.h"

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <stdexcept>
#include <utility>

namespace lockstep {
namespace {

// How long a sleeping rank may take to notice a peer's death. Far below the second that mpirun
// leaves the survivors.
constexpr std::chrono::milliseconds kHealthInterval{20};
// Asleep for one thing, a rank cannot see that another can go on.
constexpr std::chrono::microseconds kSharedInterval{200};
// Tickets of messages begin here; no program makes that many collectives.
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

OperationQueue::OperationQueue(CommContext context,
                               std::function<void(const std::string&)> on_failure)
    : context_(std::move(context)),
      on_failure_(std::move(on_failure)),
      next_message_(kFirstMessage) {}

std::uint64_t OperationQueue::push(std::unique_ptr<Operation> operation, std::string op,
                                   std::chrono::milliseconds timeout) {
  if (failure_) std::rethrow_exception(failure_);
  const std::uint64_t ticket = pushed();
  entries_.push_back(
      Entry{std::move(operation), std::move(op), Deadline::after(timeout), false, ticket});
  progress();
  return ticket;
}

std::uint64_t OperationQueue::push_message(std::unique_ptr<Operation> operation, std::string op,
                                           std::chrono::milliseconds timeout, std::uint64_t lane) {
  if (failure_) std::rethrow_exception(failure_);
  const std::uint64_t ticket = next_message_++;
  messages_.push_back(
      Entry{std::move(operation), std::move(op), Deadline::after(timeout), false, ticket, lane});
  progress();
  return ticket;
}

bool OperationQueue::is_done(std::uint64_t ticket) const noexcept {
  if (ticket < kFirstMessage) return ticket < done_;
  return std::none_of(messages_.begin(), messages_.end(),
                      [ticket](const Entry& entry) { return entry.ticket == ticket; });
}

void OperationQueue::progress() noexcept {
  if (!failure_ && !messages_.empty()) advance_messages();
  if (failure_ || entries_.empty()) return;
  try {
    advance();
  } catch (...) {
    fail_with_current_exception(entries_.front());
  }
}

void OperationQueue::look(std::uint64_t ticket) noexcept {
  progress();
  if (failure_ || is_done(ticket)) return;
  const Entry& entry = entry_to_wait_for(ticket);
  const Deadline& deadline = deadline_of(ticket);
  if (deadline.has_passed()) return fail_with_timeout(entry, deadline);
  const auto now = std::chrono::steady_clock::now();
  if (now - last_look_ < kHealthInterval) return;
  last_look_ = now;
  check_peers_of(entry);
}

void OperationQueue::fail_with_current_exception(const Entry& entry) noexcept {
  try {
    throw;
  } catch (const OperationFailure& failure) {
    const Entry& culprit = culprit_of(failure, entry);
    // Of a message only its two ranks know.
    is_failure_shared_ =
        failure.kind == OperationFailure::Kind::Mismatch && culprit.ticket < kFirstMessage;
    fail(translate(failure, context_of(culprit)));
  } catch (const std::runtime_error& error) {  // what native calls throw
    fail(translate({OperationFailure::Kind::Backend, error.what(), ""}, context_of(entry)));
  } catch (...) {
    fail(std::current_exception());
  }
}

const OperationQueue::Entry& OperationQueue::culprit_of(const OperationFailure& failure,
                                                        const Entry& entry) const {
  if (failure.culprit == nullptr) return entry;
  for (const Entry& other : entries_) {
    if (other.operation.get() == failure.culprit) return other;
  }
  for (const Entry& other : messages_) {
    if (other.operation.get() == failure.culprit) return other;
  }
  return entry;
}

void OperationQueue::advance() {
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      if (!entry.is_started) entry.is_started = entry.operation->try_start(i == 0);
      if (!entry.is_started) break;
    }
    if (!entries_.empty() && entries_.front().operation->try_finish()) {
      entries_.pop_front();
      ++done_;
      has_changed = true;
    }
  }
}

void OperationQueue::advance_messages() {
  // One that cannot start yet, because its tensor is still being copied, holds up its lane alone.
  c10::SmallVector<std::uint64_t, 8> held_up;
  const auto is_held_up = [&](std::uint64_t lane) {
    return std::find(held_up.begin(), held_up.end(), lane) != held_up.end();
  };
  for (auto entry = messages_.begin(); entry != messages_.end();) {
    bool is_finished = false;
    try {
      if (!entry->is_started && !is_held_up(entry->lane)) {
        entry->is_started = entry->operation->try_start(true);
        if (!entry->is_started) held_up.push_back(entry->lane);
      }
      is_finished = entry->is_started && entry->operation->try_finish();
    } catch (...) {
      return fail_with_current_exception(*entry);
    }
    entry = is_finished ? messages_.erase(entry) : std::next(entry);
  }
}

const OperationQueue::Entry& OperationQueue::entry_to_wait_for(std::uint64_t ticket) const {
  if (ticket < kFirstMessage) return entries_.front();
  return *std::find_if(messages_.begin(), messages_.end(),
                       [ticket](const Entry& entry) { return entry.ticket == ticket; });
}

bool OperationQueue::order_stream(std::uint64_t ticket) noexcept {
  Entry& entry = ticket < kFirstMessage ? entries_[static_cast<std::size_t>(ticket - done_)]
                                        : const_cast<Entry&>(entry_to_wait_for(ticket));
  try {
    return entry.is_started && entry.operation->order_stream();
  } catch (...) {
    fail_with_current_exception(entry);
  }
  return false;
}

const Deadline& OperationQueue::deadline_of(std::uint64_t ticket) const {
  if (ticket < kFirstMessage) return entries_[static_cast<std::size_t>(ticket - done_)].deadline;
  return entry_to_wait_for(ticket).deadline;
}

void OperationQueue::wait(std::uint64_t ticket, std::optional<std::chrono::milliseconds> timeout) {
  std::optional<Deadline> own_deadline;
  if (timeout) own_deadline = Deadline::after(*timeout);
  while (true) {
    progress();
    if (is_done(ticket)) return;
    if (failure_) std::rethrow_exception(failure_);
    if (!timeout && order_stream(ticket)) return;
    if (failure_) std::rethrow_exception(failure_);
    const Entry& entry = entry_to_wait_for(ticket);
    if (messages_.empty() && entry.operation->spin()) continue;
    const Deadline& deadline = own_deadline ? *own_deadline : deadline_of(ticket);
    if (deadline.has_passed()) {
      fail_with_timeout(entry, deadline);
      continue;
    }
    const bool is_alone =
        ticket < kFirstMessage ? messages_.empty() : messages_.size() == 1 && entries_.empty();
    const std::chrono::nanoseconds interval = is_alone ? std::chrono::nanoseconds(kHealthInterval)
                                                       : std::chrono::nanoseconds(kSharedInterval);
    entry.operation->sleep(std::min(interval, deadline.remaining()));
    // A peer may have died after it did its part: what is complete without it must not fail.
    const std::uint64_t done_before = done_;
    progress();
    if (!failure_ && done_ == done_before && !is_done(ticket)) {
      check_peers_of(entry_to_wait_for(ticket));
    }
  }
}

void OperationQueue::wait_for_messages() {
  while (!messages_.empty()) {
    const Entry& oldest = messages_.front();
    // With a limit, so that a message on a stream is waited for too.
    wait(oldest.ticket, std::chrono::ceil<std::chrono::milliseconds>(oldest.deadline.remaining()));
  }
}

void OperationQueue::fail(const OperationFailure& failure, const std::string& op) {
  CommContext context = context_;
  context.op = op;
  context.sequence = pushed() + 1;
  if (!failure_) fail(translate(failure, context));
  std::rethrow_exception(failure_);
}

void OperationQueue::check_peers_of(const Entry& entry) {
  try {
    entry.operation->check_peers();
  } catch (...) {
    fail_with_current_exception(entry);
  }
}

CommContext OperationQueue::context_of(const Entry& entry) const {
  CommContext context = context_;
  context.op = entry.op;
  const bool is_message = entry.ticket >= kFirstMessage;
  context.sequence = is_message ? entry.ticket - kFirstMessage + 1 : entry.ticket + 1;
  return context;
}

void OperationQueue::fail_with_timeout(const Entry& entry, const Deadline& deadline) noexcept {
  std::string reason = "timed out after " + seconds_text(deadline.elapsed()) + ", waiting since " +
                       time_text(entry.deadline.elapsed()) + ": ";
  try {
    reason += entry.operation->describe_missing();
  } catch (const std::exception& error) {
    reason += error.what();
  }
  fail(std::make_exception_ptr(
      TimeoutError(context_of(entry), reason,
                   "that rank is slow, stopped, or took another path through the program")));
}

std::exception_ptr OperationQueue::translate(const OperationFailure& failure,
                                             const CommContext& context) const {
  switch (failure.kind) {
    case OperationFailure::Kind::Mismatch:
      return std::make_exception_ptr(MismatchError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::PeerLost:
      return std::make_exception_ptr(PeerLostError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::Timeout:
      return std::make_exception_ptr(TimeoutError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::Backend:
      break;
  }
  return std::make_exception_ptr(CommError(context, failure.reason, failure.hint));
}

void OperationQueue::fail(const std::exception_ptr& failure) noexcept {
  if (failure_) return;
  failure_ = failure;
  std::string text = "unknown error";
  try {
    std::rethrow_exception(failure);
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
  }
  // The operations stay: peers may still read memory that they own, and their tensors must not be
  // reused meanwhile.
  if (!is_failure_shared_) on_failure_(text);
}

}  // namespace lockstep
