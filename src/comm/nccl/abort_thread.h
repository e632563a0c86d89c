// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <future>
#include <memory>
#include <thread>

#include "comm/nccl/communicator_resources.h"
#include "comm/nccl/services.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// Aborts a communicator. NCCL may block in the abort for as long as a GPU or a network hangs.
/// Therefore a thread does it that holds no lock, and whoever must know that the abort has ended
/// waits for it with a limit.
///
/// Thread-safety: any thread may wait that knows, by its owner's lock, that `begin` has returned or
/// will never be called.
class AbortThread {
 public:
  AbortThread() = default;
  ~AbortThread();
  AbortThread(const AbortThread&) = delete;
  AbortThread& operator=(const AbortThread&) = delete;

  /// Starts the thread, which aborts the communicator and a part of it that nobody took. Where NCCL
  /// never returns, the destructor leaves the thread alone. At most once. Does not block, except
  /// where the system has no thread left: then the caller aborts.
  void begin(const NcclServices& services, int device, native::NcclCommunicatorHandle handle,
             std::shared_ptr<CommunicatorResources> resources) noexcept;
  /// Blocks: until the abort has ended, if it was begun. False when the deadline passed.
  [[nodiscard]] bool wait(const Deadline& deadline) const;

 private:
  std::unique_ptr<std::thread> thread_;
  std::shared_future<void> end_;
};

}  // namespace lockstep
