// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/nccl/abort_thread.h"
#include "comm/nccl/call_context.h"
#include "comm/nccl/communicator_resources.h"
#include "comm/nccl/in_flight_operation.h"
#include "comm/nccl/services.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// A communicator of NCCL with a stream of its own. Every wait has a deadline.
///
/// The first failure ends the communicator: it is aborted, so that the GPU gets free, and every
/// later use throws that failure. Abort and destroy never both happen, and no call of NCCL follows
/// one of them.
/// Thread-safety: any thread. A thread that holds the lock makes only calls of NCCL that return at
/// once. For a call that may block, a thread takes or borrows the handle instead, and the others
/// see something in progress until it has returned.
class NcclCommunicator {
 public:
  /// What happened to a rank that has gone; empty when nobody has.
  using PeerWatch = std::function<std::string()>;

  /// The handle, lent to one thread for a call of NCCL that may block. An abort waits until the
  /// loan has ended.
  class Loan {
   public:
    Loan(NcclCommunicator& lender, native::NcclCommunicatorHandle handle) noexcept
        : lender_(lender), handle_(handle) {}
    ~Loan() { lender_.end_loan(); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    [[nodiscard]] native::NcclCommunicatorHandle handle() const noexcept { return handle_; }

   private:
    NcclCommunicator& lender_;
    native::NcclCommunicatorHandle handle_;
  };

  /// Does not call NCCL yet. `device`: index of the device that this rank uses. `peer_watch`: may
  /// be null.
  NcclCommunicator(NcclServices services, int device, int rank, int world_size,
                   PeerWatch peer_watch);
  /// Aborts the communicator unless it was closed.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Begins to connect the ranks, which goes on by itself. Never throws: see `poll`.
  void start(const native::NcclUniqueId& id);
  /// Divides this communicator. Returns this rank's part, the caller's from then on; null for a
  /// negative color. Collective. Blocks. Throws: `OperationFailure`.
  [[nodiscard]] native::NcclCommunicatorHandle divide(int color, int key, const Deadline& deadline);
  /// Takes over a part of another communicator.
  void start_as(native::NcclCommunicatorHandle part);

  /// False while the last call of NCCL is still in progress. Throws: `OperationFailure` once it
  /// has failed.
  [[nodiscard]] bool poll();
  /// Blocks: until `poll` is true. Then runs `next` before another call can begin; a failure that
  /// `next` throws ends the communicator.
  /// Throws: `OperationFailure`, of kinds Timeout and PeerLost too.
  void wait_until_ready(const Deadline& deadline, const std::string& what,
                        const NcclCall& next = nullptr);
  /// Throws: `OperationFailure`, which ends the communicator, where a call of NCCL has failed.
  void check(native::NcclResult result, const char* call);

  /// Enqueues these calls as one group, which `record_end` is to follow. False, and nothing
  /// happened, while something is in progress. Throws: `OperationFailure`.
  [[nodiscard]] bool try_enqueue(const std::vector<NcclCall>& preparations,
                                 const std::vector<NcclCall>& calls, const OperationLimit& limit);
  /// Enqueues work that is no call of NCCL on the stream. Throws: `OperationFailure`.
  void run(const std::vector<NcclCall>& calls);
  /// Records an event behind everything that was enqueued so far. What goes into a graph is not in
  /// flight: it does not run now.
  [[nodiscard]] std::shared_ptr<InFlightOperation> record_end(OperationLimit limit);
  /// What goes into a graph is done once `note_ordered` has been called, and not before: its memory
  /// belongs to it until then. Throws: `OperationFailure`.
  [[nodiscard]] bool is_done(InFlightOperation& operation);
  /// The program's stream waits for this operation from now on.
  void note_ordered(InFlightOperation& operation);
  /// The capture of the graph into which they went has ended, or the device has refused it:
  /// captured operations count as done, and no stream waits for them.
  void end_captured();
  [[nodiscard]] bool is_capture_over(const InFlightOperation& operation);
  /// Watches all that was enqueued on the calling thread's current stream, as an operation that
  /// has this time once those before it are done: many may be enqueued at once.
  /// Throws: `OperationFailure`, and what the device throws.
  void watch_current_stream(const std::string& op, std::chrono::milliseconds timeout);

  /// Null while NCCL or the stream has something to do: a call that may block waits for nothing
  /// then. `stream_end` is empty in the first of several attempts, and belongs to them.
  /// Throws: `OperationFailure`.
  [[nodiscard]] std::unique_ptr<Loan> try_borrow(std::optional<native::DeviceEvent>& stream_end);
  /// As `wait_until_ready`. Only for a stream on which nothing is enqueued.
  [[nodiscard]] std::unique_ptr<Loan> borrow(const Deadline& deadline, const std::string& what);

  /// For the watchdog's thread: see `DeviceApi::allow_captures`.
  void allow_captures() noexcept;
  /// For the watchdog: aborts the communicator when its oldest operation is too late, when NCCL
  /// reports an error, or when a peer has gone.
  void check_progress() noexcept;
  /// Aborts the communicator for this reason, unless it ended before. Never blocks.
  void abort(OperationFailure reason) noexcept;
  /// False once `close` or an abort has begun.
  [[nodiscard]] bool is_open();
  /// Blocks: until an abort that was called for has ended, and NCCL's kernels with it. False where
  /// the deadline passed.
  [[nodiscard]] bool wait_until_ended(const Deadline& deadline);
  /// Finishes what is enqueued and destroys the communicator, which has no window any more.
  /// Collective. Blocks. Throws: `OperationFailure`.
  void close(const Deadline& deadline);

  [[nodiscard]] const NcclServices& services() const noexcept { return services_; }
  [[nodiscard]] CommunicatorResources& resources() const noexcept { return *resources_; }
  [[nodiscard]] int device() const noexcept { return device_; }
  /// The device's compute capability, as 90 for 9.0.
  [[nodiscard]] int capability() const noexcept { return capability_; }
  [[nodiscard]] native::DeviceStream stream() const noexcept { return resources_->stream.get(); }

 private:
  void end_loan() noexcept;

  // The lock is held in all of these.
  [[nodiscard]] bool poll_locked();
  void fail_locked(OperationFailure failure) noexcept;
  void abort_locked() noexcept;
  [[noreturn]] void fail_and_throw_locked(OperationFailure failure);
  void throw_failure_locked() const;
  void check_locked(native::NcclResult result, const char* call);
  void drop_done_locked();
  void check_progress_locked();
  /// Throws once a peer has been gone for longer than others may need to see the end of its part.
  void check_peers_locked(const std::string& what);
  [[nodiscard]] std::unique_ptr<Loan> lend_locked();
  [[nodiscard]] NcclCallContext context_locked() const;

  const NcclServices services_;
  const int device_;
  const int capability_;
  const int rank_;
  const int world_size_;
  const std::shared_ptr<CommunicatorResources> resources_;
  const PeerWatch peer_watch_;

  std::mutex mutex_;
  native::NcclCommunicatorHandle handle_ = nullptr;  // null: not yet, or not any more
  bool is_lent_ = false;  // the end of the loan starts an abort that a failure has called for
  std::optional<OperationFailure> failure_;
  InFlightQueue in_flight_;
  std::vector<std::weak_ptr<InFlightOperation>> captured_;
  std::optional<Deadline> grace_;  // begins when a peer is seen to have gone
  AbortThread abort_thread_;
};

}  // namespace lockstep
