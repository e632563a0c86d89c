// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include "comm/nccl/communicator.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// Memory from NCCL, and the windows through which a communicator knows it on all ranks.
///
/// NCCL blocks while it deregisters a window, without a deadline of ours. So the calling thread
/// borrows the communicator's handle for that, and holds no lock.
/// Thread-safety: any thread.
class WindowRegistry {
 public:
  explicit WindowRegistry(std::shared_ptr<NcclCommunicator> communicator)
      : communicator_(std::move(communicator)) {}

  /// Memory from NCCL; null where there is none left. See `NcclMemory`.
  [[nodiscard]] void* allocate(std::size_t bytes);
  /// Registers memory with all ranks. `is_symmetric`: see `NcclApi::window_register`. Whether the
  /// window is symmetric then, `is_symmetric` says.
  /// Collective. Blocks. Throws: `OperationFailure`.
  [[nodiscard]] native::NcclWindow register_window(void* data, std::size_t bytes, bool is_symmetric,
                                                   const Deadline& deadline);
  /// Whether these bytes lie in one symmetric window.
  [[nodiscard]] bool is_symmetric(const void* data, std::size_t bytes);
  /// The window of this memory is used as an ordinary one, since it is no symmetric one on all
  /// ranks.
  void use_as_ordinary(const void* data);
  /// Deregisters the memory's window (null: it has none) and frees the memory, also after the
  /// communicator's end. Memory that cannot be freed safely in time is leaked.
  /// Blocks: until the current stream has done what uses the memory, and until an abort under way
  /// has ended. Never throws.
  void free(void* data, native::NcclWindow window) noexcept;
  /// Deregisters the windows that are left, before the communicator is closed. Collective. Blocks.
  /// Throws: `OperationFailure`.
  void deregister_all(const Deadline& deadline);

 private:
  /// Blocks. False where the memory must not be freed.
  [[nodiscard]] bool deregister(native::NcclWindow window, const Deadline& deadline);
  /// Does nothing where another thread has deregistered the window before.
  [[nodiscard]] native::NcclResult deregister(const NcclCommunicator::Loan& loan,
                                              native::NcclWindow window);
  [[nodiscard]] bool contains(native::NcclWindow window);
  /// Null where there is none.
  [[nodiscard]] native::NcclWindow any_window();

  std::shared_ptr<NcclCommunicator> communicator_;
  struct Window {
    const std::byte* begin = nullptr;
    std::size_t bytes = 0;
    bool is_symmetric = false;
  };
  std::mutex mutex_;  // taken after the communicator's, never before
  // Guarded by mutex_; only a thread with a loan removes.
  std::map<native::NcclWindow, Window> windows_;
};

}  // namespace lockstep
