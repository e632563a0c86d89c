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
#include "workers/shared_memory_channel.h"

namespace lockstep::data::detail {

/// Pins a ring, and keeps its slots from the workers while a device may still read them.
///
/// LibTorch sees to it that pinned memory of its own is not reused during a copy; of ours it knows
/// nothing. So a slot that the program lets go of is marked with an event on the current stream of
/// each device that this process uses, and stays parked, which is to say held, until all of them
/// have happened. Nobody waits for that: whoever gives out work looks.
///
/// Thread-safety: any thread. Owns: the pinning; the ring together with others.
class SlotParking {
 public:
  /// How long the end of a ring waits for devices.
  static constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(10);

  /// Pins `bytes` of the ring of `channel`, from `memory` on.
  /// Throws: `c10::Error` with the bytes, and what helps.
  SlotParking(std::shared_ptr<workers::SharedMemoryChannel> channel,
              std::shared_ptr<native::HostPinning> pinning, std::byte* memory, std::size_t bytes,
              std::chrono::milliseconds patience = kPatience);
  /// Blocks: until nothing reads the ring, at most `patience`. After that, or when the device does
  /// not answer, the ring is left as it is for good, and the log says so: memory that is lost is
  /// better than a device that reads what is no longer there.
  ~SlotParking();
  SlotParking(const SlotParking&) = delete;
  SlotParking& operator=(const SlotParking&) = delete;

  /// Instead of `release`: what was enqueued by now on this thread's current streams may read it.
  void park(std::size_t slot) noexcept;
  /// Gives back the slots that nothing reads any more.
  void look() noexcept;
  [[nodiscard]] std::size_t count() const noexcept {
    return count_.load(std::memory_order_acquire);
  }

 private:
  struct Parked {
    std::size_t slot = 0;
    bool is_marked = false;  // the events stand for all that may read it
    std::vector<c10::Event> events;
  };

  [[nodiscard]] bool mark(Parked& parked) const noexcept;
  [[nodiscard]] bool is_over(Parked& parked) noexcept;

  std::shared_ptr<workers::SharedMemoryChannel> channel_;
  std::shared_ptr<native::HostPinning> pinning_;
  std::byte* memory_;
  std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::vector<Parked> parked_;         // under the mutex
  bool is_silent_ = false;             // under the mutex: the device takes no marks
  std::atomic<std::size_t> count_{0};  // of parked_
  native::OwningProcess owner_;
};

}  // namespace lockstep::data::detail
