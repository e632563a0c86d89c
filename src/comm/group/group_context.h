// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/call_options.h>
#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/group/calling_thread.h"

namespace lockstep {

class Operation;
struct OperationFailure;
class ProgressQueue;

/// A group as its backend sees it: its place in the job, its time-outs, its failure, and the queue
/// of operations under way.
///
/// Thread-safety: the thread that is in the group; `rank()` and `size()` from any.
class GroupContext {
 public:
  using Timeout = std::chrono::milliseconds;

  GroupContext(const GroupContext&) = delete;
  GroupContext& operator=(const GroupContext&) = delete;

  // --- what it is ---

  [[nodiscard]] Backend kind() const noexcept { return kind_; }
  [[nodiscard]] int rank() const noexcept { return environment_.rank; }
  [[nodiscard]] int size() const noexcept { return environment_.world_size; }
  [[nodiscard]] const LaunchEnvironment& environment() const noexcept { return environment_; }
  /// For backends that find out which ranks share a host; launchers may not know, or say nothing.
  void set_local(int local_rank, int local_size) noexcept {
    environment_.local_rank = local_rank;
    environment_.local_size = local_size;
  }
  [[nodiscard]] Timeout timeout() const noexcept { return timeout_; }
  /// The time-out of the call that is being made.
  [[nodiscard]] Timeout call_timeout() const { return options_.timeout().value_or(timeout_); }
  /// The part of an error that describes this group; `op`: the call that failed.
  [[nodiscard]] CommContext context_for(const char* op) const;

  // --- operations ---

  /// Starts an operation of the backend's own, behind all collectives before it, and waits for it.
  /// `limit`: of this wait; none: the call's own deadline alone.
  ///
  /// Blocks: the calling thread. Throws: the group's failure.
  void run(std::unique_ptr<Operation> operation, const char* op,
           std::optional<Timeout> limit = std::nullopt);
  /// Makes all progress that is possible now. What goes wrong becomes the group's failure.
  void progress() noexcept;
  [[nodiscard]] bool has_unfinished() const noexcept;
  /// For backends that cannot call back what they gave away: leaves unfinished operations and their
  /// buffers in memory. Only where the group ends.
  void keep_unfinished() noexcept;

  // --- failures and ends ---

  /// Throws: the group's failure; `c10::Error` for a closed group, and in a fork.
  void check_open(const char* op) const;
  /// Throws: the group's failure, where there is one.
  void throw_failure() const;
  /// Ends the group with what was found outside of any operation. Throws: it, or the failure
  /// before.
  [[noreturn]] void fail(const OperationFailure& failure, const char* op);
  /// Ends the group because this rank goes no further with it: the others get `reason` where they
  /// wait, or in their next call.
  void give_up(const std::string& reason, const char* op) noexcept;
  /// Whether the group failed in a way that every rank found by itself.
  [[nodiscard]] bool is_failure_shared() const noexcept;
  [[nodiscard]] bool is_closed() const noexcept { return is_closed_; }
  /// Whether this object is the copy in a forked process. The group belongs to the parent, and
  /// nothing that is shared may be touched.
  [[nodiscard]] bool is_copy_of_fork() const noexcept;

 protected:
  /// `on_failure`: see `ProgressQueue`.
  GroupContext(Backend kind, LaunchEnvironment environment, Timeout timeout,
               std::function<void(const std::string&)> on_failure);
  ~GroupContext();

  /// Every call begins with this. Throws: `c10::Error` where another thread is in the group, and in
  /// a fork.
  [[nodiscard]] GroupVisit enter(const char* op) const;
  [[nodiscard]] GroupVisit try_enter(const char* op) noexcept {
    return GroupVisit(*calling_thread_, op);
  }
  /// Throws: the group's failure; `c10::Error` for a closed group.
  void check_not_closed(const char* op) const;
  /// Blocks: the calling thread. Throws: the group's failure.
  void wait_for(std::uint64_t sequence, std::optional<Timeout> limit);
  [[nodiscard]] ProgressQueue& queue() noexcept { return *queue_; }
  [[nodiscard]] const CallOptions& options() const noexcept { return options_; }
  void swap_options(CallOptions& options) noexcept { std::swap(options_, options); }
  void set_closed() noexcept { is_closed_ = true; }

 private:
  /// Throws: `c10::Error` in a fork of the process that made the group.
  void check_process(const char* op) const;
  /// Ends the group where two threads were in it at once.
  void note_misuse() const noexcept;

  Backend kind_;
  LaunchEnvironment environment_;
  Timeout timeout_;
  CallOptions options_;
  bool is_closed_ = false;
  std::unique_ptr<CallingThread> calling_thread_;
  std::unique_ptr<ProgressQueue> queue_;
};

}  // namespace lockstep
