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

#include "comm/collective/operation.h"
#include "comm/nccl/ending.h"
#include "comm/nccl/services.h"
#include "concurrency/deadline.h"
#include "native/posix/owning_process.h"

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
/// that failure. Abort and destroy never both happen, and no call is made once one of them began.
/// Thread-safety: any thread. Under the lock are those calls of NCCL alone that return at once (it
/// is non-blocking); for those that may block the handle is taken out or lent, and others find that
/// something is in progress meanwhile.
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
  /// Divides this communicator. Returns this rank's part, the caller's from then on; null for a
  /// negative color. Collective. Blocks. Throws: `OperationFailure`.
  [[nodiscard]] native::NcclCommunicatorHandle divide(int color, int key, const Deadline& deadline);
  /// Takes over a part of another communicator.
  void start_as(native::NcclCommunicatorHandle part);

  /// False while what was called last still goes on. Throws: `OperationFailure` once it failed.
  [[nodiscard]] bool poll();
  /// Blocks: until `poll` is true; then does `next`, before anything else can be in progress.
  /// Throws: `OperationFailure`, of kinds Timeout and PeerLost too.
  void wait_until_ready(const Deadline& deadline, const std::string& what,
                        const std::function<void()>& next = nullptr);

  /// Enqueues these calls as one, which `record_end` is to follow. False, and nothing happened,
  /// while something is in progress. Throws: `OperationFailure`.
  [[nodiscard]] bool try_enqueue(const std::vector<NcclCall>& preparations,
                                 const std::vector<NcclCall>& calls, const Deadline& deadline,
                                 const std::string& op);
  /// Does something on the stream that is no call of NCCL. Throws: `OperationFailure`.
  void run(const std::vector<NcclCall>& calls);
  /// What is recorded now ends when all that was enqueued has ended.
  [[nodiscard]] std::shared_ptr<NcclFlight> record_end(const Deadline& deadline, std::string op);
  /// Throws: `OperationFailure`.
  [[nodiscard]] bool is_done(NcclFlight& flight);

  /// Memory from NCCL; null where there is none left. See `NcclMemory`.
  [[nodiscard]] void* allocate(std::size_t bytes);
  /// Makes memory known to all ranks. Collective. Blocks. Throws: `OperationFailure`.
  [[nodiscard]] native::NcclWindow make_known(void* data, std::size_t bytes,
                                              const Deadline& deadline);
  /// `window`: null where it is not known. Also after the communicator is gone. Blocks: until what
  /// the current stream does with it is done, and until an abort under way has ended. Never throws.
  void free(void* data, native::NcclWindow window) noexcept;

  /// One look of the watchdog: ends the communicator when its oldest operation is too late, when
  /// NCCL reports an error, or when a peer has gone.
  void look() noexcept;
  /// Ends it for this reason, unless it ended before. Never blocks.
  void give_up(OperationFailure failure) noexcept;
  /// Blocks: until NCCL's kernels are gone after `give_up`. False where that takes too long.
  [[nodiscard]] bool wait_until_ended();
  /// Finishes what is enqueued and lets the communicator go. Collective. Blocks. Throws:
  /// `OperationFailure`.
  void close(const Deadline& deadline);

  [[nodiscard]] const NcclServices& services() const noexcept { return services_; }
  [[nodiscard]] int device() const noexcept { return device_; }
  /// The device's compute capability, as 90 for 9.0.
  [[nodiscard]] int capability() const noexcept { return capability_; }
  [[nodiscard]] native::DeviceStream stream() const noexcept { return places_->stream.get(); }

 private:
  // All with the lock held.
  [[nodiscard]] bool poll_locked();
  void fail_locked(OperationFailure failure) noexcept;
  void abort_locked() noexcept;
  [[noreturn]] void fail_and_throw_locked(OperationFailure failure);
  void throw_failure_locked() const;
  void check_locked(native::NcclResult result, const char* call);
  void drop_done_locked();
  void look_locked();
  /// Throws when what this belongs to is too late.
  void check_end_locked(const Deadline& deadline, const std::string& op);
  /// Whether NCCL does nothing now: not even a call that waits for the GPU would wait.
  /// `end`: of what is enqueued, from the first look at which NCCL had taken it all.
  [[nodiscard]] bool is_idle_locked(std::optional<native::DeviceEvent>& end);
  /// Without the lock. Blocks. False where the memory must not be freed.
  [[nodiscard]] bool deregister(native::NcclWindow window, const Deadline& deadline);
  void deregister_all(const Deadline& deadline);
  /// By whom the handle is lent to; gives it back.
  [[nodiscard]] native::NcclResult deregister_lent(native::NcclWindow window);
  /// Throws once a peer has been gone for longer than it may take to see the end of its part.
  void check_peers_locked(const std::string& what);
  [[nodiscard]] NcclCallContext context_locked() const;

  const NcclServices services_;
  const int device_;
  const int capability_;
  const int rank_;
  const int world_size_;
  const std::shared_ptr<NcclPlaces> places_;

  PeerWatch peer_watch_;
  std::mutex mutex_;
  native::NcclCommunicatorHandle handle_ = nullptr;  // null: not yet, or not any more
  bool is_lent_ = false;  // to one thread, without the lock; whoever fails leaves the abort to it
  std::optional<OperationFailure> failure_;
  std::deque<std::shared_ptr<NcclFlight>> flights_;
  // Enqueued, and its end not recorded yet: the program may be blocked in a call of CUDA's.
  struct Given {
    Deadline deadline;
    std::string op;
  };
  std::optional<Given> given_;
  std::set<native::NcclWindow> windows_;
  std::optional<Deadline> grace_;  // since a peer has gone
  NcclEnding ending_;
};

/// Memory from NCCL, which is given back whatever happens to it on the way.
class NcclMemory {
 public:
  NcclMemory(std::shared_ptr<NcclCommunicator> communicator, std::size_t bytes)
      : communicator_(std::move(communicator)),
        bytes_(bytes),
        data_(communicator_->allocate(bytes)) {}
  ~NcclMemory() {
    if (!owner_.is_current()) {
      native::leave_alone(std::move(communicator_));
    } else if (data_ != nullptr) {
      communicator_->free(data_, window_);
    }
  }
  NcclMemory(const NcclMemory&) = delete;
  NcclMemory& operator=(const NcclMemory&) = delete;

  /// Null where there was none left.
  [[nodiscard]] void* data() const noexcept { return data_; }
  /// See `NcclCommunicator::make_known`.
  void make_known(const Deadline& deadline) {
    window_ = communicator_->make_known(data_, bytes_, deadline);
  }

 private:
  std::shared_ptr<NcclCommunicator> communicator_;
  std::size_t bytes_;
  void* data_;
  native::NcclWindow window_ = nullptr;
  native::OwningProcess owner_;
};

}  // namespace lockstep
