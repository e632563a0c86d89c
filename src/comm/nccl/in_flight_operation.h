// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "comm/nccl/services.h"
#include "concurrency/deadline.h"

namespace lockstep {

/// When which operation must have ended.
struct OperationLimit {
  Deadline deadline;
  std::string op;
};

/// One operation on a communicator's stream, as its owner and the watchdog see it.
struct InFlightOperation {
  InFlightOperation(const NcclServices& services, int device, OperationLimit operation_limit)
      : end(services.device, device), limit(std::move(operation_limit)) {}

  native::DeviceEvent end;
  OperationLimit limit;
  /// The deadline is this long after the end of the operation before it.
  std::optional<std::chrono::milliseconds> time_alone;
  bool is_captured = false;  // goes into a graph
  // Guarded by the communicator.
  bool is_done = false;
  bool is_capture_over = false;  // nothing outside of its graph can wait for its end
};

/// The operations on a communicator's stream, oldest first.
///
/// Thread-safety: none; the communicator's lock guards it.
class InFlightQueue {
 public:
  /// From now on, calls of an operation may be in the stream whose end is not recorded yet. The
  /// program may be blocked in a call of CUDA's meanwhile.
  void begin(OperationLimit limit) { begun_.emplace(std::move(limit)); }
  /// What was begun does not run now.
  void drop_begun() { begun_.reset(); }
  /// The end of what was begun is recorded.
  void push(std::shared_ptr<InFlightOperation> operation);
  /// Marks and removes the operations whose end the stream has reached. Throws:
  /// `std::runtime_error` when the device says no.
  void drop_done();
  /// The limit of the oldest operation; null when there is none.
  [[nodiscard]] const OperationLimit* oldest_limit() const;

 private:
  std::deque<std::shared_ptr<InFlightOperation>> operations_;
  std::optional<OperationLimit> begun_;
};

}  // namespace lockstep
