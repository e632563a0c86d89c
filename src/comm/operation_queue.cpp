// SPDX-License-Identifier: BSD-3-Clause
#include "comm/operation_queue.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

namespace lockstep {
namespace {

// How long a sleeping rank may take to notice a peer's death. Far below the second that mpirun
// leaves the survivors.
constexpr std::chrono::milliseconds kHealthInterval{20};

std::string seconds_text(std::chrono::duration<double> duration) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", duration.count());
  return text;
}

}  // namespace

OperationQueue::OperationQueue(CommContext context,
                               std::function<void(const std::string&)> on_failure)
    : context_(std::move(context)), on_failure_(std::move(on_failure)) {}

std::uint64_t OperationQueue::push(std::unique_ptr<Operation> operation, std::string op,
                                   std::chrono::milliseconds timeout) {
  if (failure_) std::rethrow_exception(failure_);
  const std::uint64_t ticket = pushed();
  entries_.push_back(Entry{std::move(operation), std::move(op), Deadline::after(timeout)});
  progress();
  return ticket;
}

void OperationQueue::progress() noexcept {
  if (failure_ || entries_.empty()) return;
  try {
    advance();
  } catch (...) {
    fail_with_current_exception();
  }
}

void OperationQueue::fail_with_current_exception() noexcept {
  try {
    throw;
  } catch (const OperationFailure& failure) {
    is_failure_shared_ = failure.kind == OperationFailure::Kind::Mismatch;
    fail(translate(failure));
  } catch (const std::runtime_error& error) {  // what native calls throw
    fail(translate({OperationFailure::Kind::Backend, error.what(), ""}));
  } catch (...) {
    fail(std::current_exception());
  }
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

void OperationQueue::wait(std::uint64_t ticket, std::optional<std::chrono::milliseconds> timeout) {
  std::optional<Deadline> own_deadline;
  if (timeout) own_deadline = Deadline::after(*timeout);
  while (true) {
    progress();
    if (is_done(ticket)) return;
    if (failure_) std::rethrow_exception(failure_);
    const Deadline& deadline =
        own_deadline ? *own_deadline : entries_[static_cast<std::size_t>(ticket - done_)].deadline;
    if (deadline.has_passed()) {
      fail_with_timeout(deadline);
      continue;
    }
    Operation& oldest = *entries_.front().operation;
    oldest.sleep(std::min<std::chrono::nanoseconds>(kHealthInterval, deadline.remaining()));
    try {
      // A peer may have died after it did its part: what is complete without it must not fail.
      const std::uint64_t done_before = done_;
      progress();
      if (!failure_ && done_ == done_before) oldest.check_peers();
    } catch (...) {
      fail_with_current_exception();
    }
  }
}

CommContext OperationQueue::context_of_oldest() const {
  CommContext context = context_;
  context.op = entries_.empty() ? "progress" : entries_.front().op;
  context.sequence = done_ + 1;
  return context;
}

void OperationQueue::fail_with_timeout(const Deadline& deadline) {
  std::string reason = "timed out after " + seconds_text(deadline.elapsed()) + ": ";
  try {
    reason += entries_.front().operation->describe_missing();
  } catch (const std::exception& error) {
    reason += error.what();
  }
  fail(std::make_exception_ptr(
      TimeoutError(context_of_oldest(), reason,
                   "that rank is slow, stopped, or took another path through the program")));
}

std::exception_ptr OperationQueue::translate(const OperationFailure& failure) const {
  const CommContext context = context_of_oldest();
  switch (failure.kind) {
    case OperationFailure::Kind::Mismatch:
      return std::make_exception_ptr(MismatchError(context, failure.reason, failure.hint));
    case OperationFailure::Kind::PeerLost:
      return std::make_exception_ptr(PeerLostError(context, failure.reason, failure.hint));
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
