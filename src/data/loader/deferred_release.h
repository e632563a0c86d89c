// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Event.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "native/cuda/host_pinning.h"
#include "native/posix/owning_process.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// Pins the memory of all slots, and keeps a slot from the workers while a device may still read
/// it.
///
/// LibTorch sees to it that pinned memory of its own is not reused during a copy, but it knows
/// nothing of this memory. So the release of a slot that the program lets go of is deferred: the
/// slot is marked with an event on the current stream of each device that this process uses, and
/// stays held until all of these events have happened. Nobody waits for that: `release_finished` is
/// called whenever work is given out.
///
/// Thread-safety: any thread. Owns: the pinning; the shared memory together with others.
class DeferredRelease {
 public:
  /// How long the destructor waits for devices.
  static constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(10);

  /// Pins `bytes` of the channel's shared memory, from `memory` on.
  /// Throws: `c10::Error` with the bytes, and what helps.
  DeferredRelease(std::shared_ptr<workers::TaskChannel> channel,
                  std::shared_ptr<native::HostPinning> pinning, std::byte* memory,
                  std::size_t bytes, std::chrono::milliseconds patience = kPatience);
  /// Blocks: until nothing reads the memory, at most `patience`. After that, or when the device
  /// does not answer, the memory is left as it is for good, and the log says so: memory that is
  /// lost is better than a device that reads what is no longer there.
  ~DeferredRelease();
  DeferredRelease(const DeferredRelease&) = delete;
  DeferredRelease& operator=(const DeferredRelease&) = delete;

  /// Instead of `release`: what was enqueued by now on this thread's current streams may read it.
  void defer(std::size_t slot) noexcept;
  /// Gives back the slots that nothing reads any more.
  void release_finished() noexcept;
  [[nodiscard]] std::size_t count() const noexcept {
    return count_.load(std::memory_order_acquire);
  }

 private:
  struct Deferred {
    std::size_t slot = 0;
    bool is_marked = false;  // the events stand for all that may read it
    std::vector<c10::Event> events;
  };

  [[nodiscard]] bool mark(Deferred& deferred) const noexcept;
  [[nodiscard]] bool is_over(Deferred& deferred) noexcept;

  std::shared_ptr<workers::TaskChannel> channel_;
  std::shared_ptr<native::HostPinning> pinning_;
  std::byte* memory_;
  std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::vector<Deferred> deferred_;     // under the mutex
  bool is_silent_ = false;             // under the mutex: the device takes no marks
  std::atomic<std::size_t> count_{0};  // of deferred_
  native::OwningProcess owner_;
};

}  // namespace lockstep::data::detail
