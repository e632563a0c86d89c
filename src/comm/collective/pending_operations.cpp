// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/pending_operations.h"

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <utility>

namespace lockstep {

std::uint64_t PendingOperations::push(PendingOperation pending) {
  pending.sequence = next_;
  pending_.push_back(std::move(pending));
  return next_++;
}

void PendingOperations::advance() {
  current_ = 0;
  if (order_ == Order::Collectives) {
    advance_collectives();
  } else {
    advance_messages();
  }
}

void PendingOperations::advance_collectives() {
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      PendingOperation& pending = pending_[i];
      if (!pending.is_started) pending.is_started = pending.operation->try_start(i == 0);
      if (!pending.is_started) break;
    }
    if (!pending_.empty() && pending_.front().operation->try_finish()) {
      pending_.pop_front();
      has_changed = true;
    }
  }
}

void PendingOperations::advance_messages() {
  // A message that cannot start yet, because its tensor is still being copied, holds up its lane
  // alone.
  c10::SmallVector<std::uint64_t, 8> held_up;
  const auto is_held_up = [&](std::uint64_t lane) {
    return std::find(held_up.begin(), held_up.end(), lane) != held_up.end();
  };
  while (current_ < pending_.size()) {
    PendingOperation& pending = pending_[current_];
    if (!pending.is_started && !is_held_up(pending.lane)) {
      pending.is_started = pending.operation->try_start(true);
      if (!pending.is_started) held_up.push_back(pending.lane);
    }
    if (pending.is_started && pending.operation->try_finish()) {
      pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(current_));
    } else {
      ++current_;
    }
  }
}

bool PendingOperations::is_done(std::uint64_t sequence) const noexcept {
  if (pending_.empty() || sequence < pending_.front().sequence) return true;
  if (order_ == Order::Collectives) return false;
  return std::none_of(pending_.begin(), pending_.end(),
                      [sequence](const PendingOperation& one) { return one.sequence == sequence; });
}

PendingOperation& PendingOperations::at(std::uint64_t sequence) {
  return *std::find_if(pending_.begin(), pending_.end(), [sequence](const PendingOperation& one) {
    return one.sequence == sequence;
  });
}

const PendingOperation& PendingOperations::next_for(std::uint64_t sequence) {
  return order_ == Order::Collectives ? pending_.front() : at(sequence);
}

const PendingOperation* PendingOperations::find(const Operation* operation) const {
  const auto found = std::find_if(
      pending_.begin(), pending_.end(),
      [operation](const PendingOperation& one) { return one.operation.get() == operation; });
  return found == pending_.end() ? nullptr : &*found;
}

}  // namespace lockstep
