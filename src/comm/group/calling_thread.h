// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace lockstep {

class GroupVisit;

/// Sees that two threads are in one group at once, which is forbidden: they would change the same
/// queue, and their calls would come in another order on each rank. Threads may take turns, as
/// autograd's do.
///
/// Thread-safety: any thread, at any time.
class CallingThread {
 public:
  /// A sentence that says what two threads called at once; empty where that never happened. Once
  /// there, it stays.
  [[nodiscard]] std::string misuse() const;
  [[nodiscard]] bool is_misused() const noexcept {
    return second_.load(std::memory_order_relaxed) != nullptr;
  }

 private:
  friend class GroupVisit;

  std::atomic<std::uintptr_t> owner_{0};  // the thread that is inside
  std::atomic<const char*> op_{nullptr};  // its call
  std::atomic<const char*> first_{nullptr},
      second_{nullptr};  // calls that were in the group at once; null: none were
};

/// The time that a thread is in a group, from the beginning of a call to its end. A call inside of
/// another one belongs to the outermost.
class GroupVisit {
 public:
  /// `op`: a text that lives as long as the program.
  GroupVisit(CallingThread& group, const char* op) noexcept;
  ~GroupVisit();
  GroupVisit(GroupVisit&& other) noexcept
      : group_(std::exchange(other.group_, nullptr)), has_entered_(other.has_entered_) {}
  GroupVisit(const GroupVisit&) = delete;
  GroupVisit& operator=(const GroupVisit&) = delete;

  /// False: another thread is in the group, and this one must not touch it.
  [[nodiscard]] bool has_entered() const noexcept { return has_entered_; }

 private:
  CallingThread* group_ = nullptr;  // to be left at the end
  bool has_entered_ = true;
};

}  // namespace lockstep
