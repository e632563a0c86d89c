// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <string>

namespace lockstep {

class Operation;

/// Why an operation cannot go on. Operations throw it; the queue adds where and when, and throws
/// the public type.
struct OperationFailure {
  enum class Kind {
    Mismatch,
    PeerLost,
    ConnectionLost,  ///< a rank is lost, and it is not known which one, nor why
    Timeout,
    Backend
  };
  Kind kind;
  std::string reason;
  std::string hint;
  /// Whose failure it is, where it may be found while another operation makes progress. Null: that
  /// of the operation that throws it.
  const Operation* culprit = nullptr;
};

/// One collective on one backend, as a state machine that makes progress in calls into the group.
///
/// The queue calls `try_start` in the order of the collectives, and of a later one only after all
/// earlier ones have returned true: so all ranks announce their collectives in the same order, and
/// can announce several at once. `try_finish` is called on the oldest one only. Thread-safety: one
/// thread at a time.
class Operation {
 public:
  virtual ~Operation() = default;

  /// Announces this rank's part. True when nothing is left to announce. Never blocks.
  /// `is_oldest`: every earlier operation is complete.
  virtual bool try_start(bool is_oldest) = 0;

  /// Does this rank's part as far as the others' allow. True when the operation is complete. Never
  /// blocks.
  virtual bool try_finish() = 0;

  /// Polls for a few microseconds, in which most ranks that are late arrive, without reading a
  /// clock. True when `try_finish` may get further.
  virtual bool spin() { return false; }

  /// Makes the calling thread's current stream wait for this operation, so that the host need not.
  /// The operation has started. False: it runs on no stream of a device, and the host waits.
  virtual bool make_stream_wait() { return false; }

  /// Sleeps until `try_finish` may get further, or `limit` has passed.
  virtual void sleep(std::chrono::nanoseconds limit) = 0;

  /// Throws `OperationFailure` when a rank that is still needed cannot come any more.
  virtual void check_peers() = 0;

  /// Which ranks have not arrived, for an error message.
  [[nodiscard]] virtual std::string describe_missing() const = 0;
};

}  // namespace lockstep
