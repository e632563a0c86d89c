// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/calling_thread.h"

namespace lockstep {
namespace {

/// Another number for each thread that lives, without a call into the system.
std::uintptr_t number_of_this_thread() {
  static thread_local char place;
  return reinterpret_cast<std::uintptr_t>(&place);
}

}  // namespace

std::string CallingThread::misuse() const {
  const char* second = second_.load(std::memory_order_acquire);
  if (second == nullptr) return "";
  const char* first = first_.load(std::memory_order_relaxed);
  return std::string("two threads were in this process group at once, in ") +
         (first == nullptr ? "a call" : first) + " and in " + second +
         "; a group takes one thread at a time: give each thread a group of its own, by split(0) "
         "on "
         "all ranks";
}

GroupVisit::GroupVisit(CallingThread& group, const char* op) noexcept {
  const std::uintptr_t self = number_of_this_thread();
  std::uintptr_t owner = 0;
  if (group.owner_.compare_exchange_strong(owner, self, std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
    group.op_.store(op, std::memory_order_relaxed);
    group_ = &group;
    return;
  }
  if (owner == self) return;
  has_entered_ = false;
  if (group.is_misused()) return;  // the first misuse is the one to be told
  group.first_.store(group.op_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  group.second_.store(op, std::memory_order_release);
}

GroupVisit::~GroupVisit() {
  if (group_ != nullptr) group_->owner_.store(0, std::memory_order_release);
}

}  // namespace lockstep
