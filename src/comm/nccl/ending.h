// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <future>
#include <memory>
#include <thread>

#include "comm/nccl/services.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// What NCCL may write, and what its kernels may run on, until a communicator has ended: outlives
/// the one that it belongs to where that does not wait for its end.
struct NcclPlaces {
  NcclPlaces(const NcclServices& services, int device) : stream(services.device, device) {}

  native::CommunicationStream stream;
  native::NcclCommunicatorHandle communicator = nullptr;
  native::NcclCommunicatorHandle part = nullptr;  // of the latest division, until it is taken
  native::NcclWindow window = nullptr;            // of the latest registration
};

/// The abort of a communicator. NCCL may block in it for as long as a GPU or a network hangs: so
/// nobody holds a lock meanwhile, and who must know that it has ended waits with a limit.
///
/// Thread-safety: any thread may wait that knows, by its owner's lock, that `begin` has returned or
/// will never be called.
class NcclEnding {
 public:
  NcclEnding() = default;
  ~NcclEnding();
  NcclEnding(const NcclEnding&) = delete;
  NcclEnding& operator=(const NcclEnding&) = delete;

  /// Aborts a communicator, and a part of it that nobody took, in a thread of its own, which is
  /// left alone where NCCL never returns. At most once. Never blocks.
  void begin(const NcclServices& services, int device, native::NcclCommunicatorHandle handle,
             std::shared_ptr<NcclPlaces> places) noexcept;
  /// Blocks: until what began has ended. False when the deadline passed.
  [[nodiscard]] bool wait(const Deadline& deadline) const;

 private:
  std::unique_ptr<std::thread> thread_;
  std::shared_future<void> end_;
};

}  // namespace lockstep
