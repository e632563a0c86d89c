// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl_services.h"
#include "comm/operation.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// What an operation's calls get.
struct NcclCallContext {
  native::NcclApi& nccl;
  native::DeviceApi& device;
  native::NcclCommunicatorHandle communicator;
  native::DeviceStream stream;
  int rank;
  int world_size;

  /// Throws `OperationFailure` unless the call succeeded or goes on by itself.
  void check(native::NcclResult result, const char* call) const;
};
using NcclCall = std::function<void(const NcclCallContext&)>;

/// One operation on the communicator's stream, as its owner and the watchdog see it.
struct NcclFlight {
  NcclFlight(const NcclServices& services, int device, const Deadline& limit, std::string name)
      : end(services.device, device), deadline(limit), op(std::move(name)) {}

  native::DeviceEvent end;
  Deadline deadline;
  std::string op;
  bool is_done = false;  // guarded by the communicator
};

/// A communicator of NCCL with a stream of its own: made, polled, given up and let go under a
/// deadline.
///
/// The first failure ends it: it is aborted, so that the GPU gets free, and every later use throws
/// that failure. Abort and destroy never both happen.
/// Thread-safety: any thread. Calls into NCCL return at once (it is non-blocking), so the lock is
/// never held for long.
class NcclCommunicator {
 public:
  /// `device`: index of the device that this rank uses. Makes nothing yet.
  NcclCommunicator(NcclServices services, int device, int rank, int world_size);
  /// Aborts what was not closed.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  using PeerWatch = std::function<std::string()>;
  /// `watch`: says what happened to a rank that has gone, else nothing; used inside the calls
  /// below, but for `free` and the destructor. Before the first of them.
  void watch_peers(PeerWatch watch) { peer_watch_ = std::move(watch); }

  /// Begins to meet the other ranks; goes on by itself. Never throws: see `poll`.
  void start(const native::NcclUniqueId& id);
  /// Begins to divide this communicator; a negative color joins no part.
  void start_split(int color, int key);
  /// This rank's part, once `poll` is true. The caller's from then on.
  [[nodiscard]] native::NcclCommunicatorHandle take_part();
  /// Takes over a part of another communicator.
  void start_as(native::NcclCommunicatorHandle part);

  /// False while what was called last still goes on. Throws: `OperationFailure` once it failed.
  [[nodiscard]] bool poll();
  /// Blocks: until `poll` is true. Throws: `OperationFailure`, of kinds Timeout and PeerLost too.
  void wait_until_ready(const Deadline& deadline, const std::string& what);

  /// Enqueues these calls as one, which `record_end` is to follow. Requires `poll()`.
  /// Throws: `OperationFailure`.
  void enqueue(const std::vector<NcclCall>& preparations, const std::vector<NcclCall>& calls,
               const Deadline& deadline, const std::string& op);
  /// Does something on the stream that is no call of NCCL. Throws: `OperationFailure`.
  void run(const std::vector<NcclCall>& calls);
  /// What is recorded now ends when all that was enqueued has ended.
  [[nodiscard]] std::shared_ptr<NcclFlight> record_end(const Deadline& deadline, std::string op);
  /// Throws: `OperationFailure`.
  [[nodiscard]] bool is_done(NcclFlight& flight);

  struct Memory {
    void* data = nullptr;
    native::NcclWindow window = nullptr;
  };
  /// Memory from NCCL; null where there is none left.
  [[nodiscard]] void* allocate(std::size_t bytes);
  /// Makes memory known to all ranks. Collective. Blocks. Throws: `OperationFailure`.
  [[nodiscard]] Memory make_known(void* data, std::size_t bytes, const Deadline& deadline);
  /// Also after the communicator is gone. Blocks: until what the current stream does with it is
  /// done. Never throws.
  void free(Memory memory) noexcept;

  /// One look of the watchdog: ends the communicator when its oldest operation is too late, when
  /// NCCL reports an error, or when a peer has gone.
  void look() noexcept;
  /// Ends it for this reason, unless it ended before.
  void give_up(OperationFailure failure) noexcept;
  /// Finishes what is enqueued and lets the communicator go. Collective. Blocks. Throws:
  /// `OperationFailure`.
  void close(const Deadline& deadline);

  [[nodiscard]] const NcclServices& services() const noexcept { return services_; }
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] native::DeviceStream stream() const noexcept { return stream_; }

 private:
  // All with the lock held.
  [[nodiscard]] bool poll_locked();
  void fail_locked(OperationFailure failure) noexcept;
  [[noreturn]] void fail_and_throw_locked(OperationFailure failure);
  void throw_failure_locked() const;
  void check_locked(native::NcclResult result, const char* call);
  void drop_done_locked();
  void look_locked();
  /// Throws when what this belongs to is too late.
  void check_end_locked(const Deadline& deadline, const std::string& op);
  [[nodiscard]] bool deregister(native::NcclWindow window, const Deadline& deadline);
  /// Throws once a peer has been gone for longer than it may take to see the end of its part.
  void check_peers_locked(const std::string& what);
  [[nodiscard]] NcclCallContext context_locked() const;

  const NcclServices services_;
  const int device_;
  const int rank_;
  const int world_size_;
  const native::DeviceStream stream_;

  PeerWatch peer_watch_;
  std::mutex mutex_;
  native::NcclCommunicatorHandle place_ = nullptr;   // NCCL writes here when it likes
  native::NcclCommunicatorHandle handle_ = nullptr;  // null: not yet, or not any more
  std::optional<OperationFailure> failure_;
  std::deque<std::shared_ptr<NcclFlight>> flights_;
  // Enqueued, and its end not recorded yet: the program may be blocked in a call of CUDA's.
  struct Given {
    Deadline deadline;
    std::string op;
  };
  std::optional<Given> given_;
  // Where NCCL writes the parts when they are made, in a thread of its own. A deque moves nothing.
  std::deque<native::NcclCommunicatorHandle> parts_;
  std::set<native::NcclWindow> windows_;
  std::optional<Deadline> grace_;  // since a peer has gone
};

}  // namespace lockstep
