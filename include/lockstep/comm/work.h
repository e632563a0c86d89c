// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/future.h>
#include <lockstep/core/export.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace lockstep {

class GroupCore;  // the state and the backend of a process group; internal

/// One collective under way, or several that were started together. A small handle; copies refer to
/// the same collective. Dropping it cancels nothing: the group finishes the collective in later
/// calls, at the latest in `close()`.
///
/// A rank does its part of a collective inside calls into the group: when it starts a collective,
/// asks `is_completed()`, or waits. No hidden thread competes with training for a core.
///
/// Thread-safety: as its group's, one thread at a time. Keeps the group's state alive.
class LOCKSTEP_API Work {
 public:
  /// For the library: the call with this sequence number in the queue of `group`.
  Work(std::shared_ptr<GroupCore> group, std::uint64_t sequence);
  /// Several calls as one, which is complete when all of them are; see `ProcessGroup::coalesced`.
  explicit Work(std::vector<Work> parts);

  /// Returns when the result is in the tensor and the tensor may be changed again. Rethrows what
  /// failed.
  ///
  /// Blocks: the calling thread, until the deadline of the call, which was set when the collective
  /// started. With CUDA tensors over NCCL, the wait ends when the collective is enqueued: the
  /// current stream waits for the result, as in PyTorch.
  /// Throws: `TimeoutError`, `PeerLostError`, `MismatchError`, `CommError`.
  void wait();
  /// The same with a limit for this wait.
  ///
  /// Blocks: the calling thread, until the result is there, on CUDA too, or the limit or the call's
  /// deadline has passed.
  /// Throws: as `wait()`.
  void wait(std::chrono::milliseconds timeout);

  /// True when `wait()` would return or throw at once. Does this rank's part if its turn has come;
  /// never blocks.
  [[nodiscard]] bool is_completed();

  /// The error of a failed collective, else null. Never blocks.
  [[nodiscard]] std::exception_ptr exception();

  /// The future of `next()`. `next` is called by the first wait for that future, once this work is
  /// complete; see `Future`.
  template <typename F>
  [[nodiscard]] auto then(F next) const {
    return future().then(std::move(next));
  }
  /// A future without a value, which is completed when this work is.
  [[nodiscard]] Future<void> future() const;

 private:
  void wait_until(std::optional<std::chrono::milliseconds> timeout);

  std::shared_ptr<GroupCore> group_;  // null: the parts
  std::uint64_t sequence_ = 0;
  std::shared_ptr<std::vector<Work>> parts_;
};

}  // namespace lockstep
