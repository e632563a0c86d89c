// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/nccl/collective_check.h"
#include "comm/nccl/communicator.h"

namespace lockstep {

/// What one call of the program asks of NCCL.
struct NcclTask {
  /// Everything that the calls below read and write. It is kept until they are done, so that no
  /// allocator gives the memory to somebody else before.
  std::vector<at::Tensor> tensors;
  std::vector<NcclCall> preparations;      ///< copies on the stream, before the group
  std::vector<NcclCall> calls;             ///< inside one group
  std::vector<NcclCall> completions;       ///< copies on the stream, after the group
  std::unique_ptr<CollectiveCheck> check;  ///< null: nothing is compared
  const Operation* owner = nullptr;        ///< the operation that fails where `check` does
};

/// One or several tasks that are enqueued as one group of NCCL calls. The group runs after what the
/// callers' streams did before the tasks were added, and an event follows it.
///
/// The steps, none of which blocks: checks pass, NCCL has nothing else in progress, the calls are
/// enqueued, NCCL has taken them, the end is recorded.
class NcclLaunch {
 public:
  NcclLaunch(std::shared_ptr<NcclCommunicator> communicator, OperationLimit limit);

  /// Also records where the current stream stands. Only before `seal`.
  void add(NcclTask task);
  /// After this no task is added any more. Before it nothing is enqueued.
  void seal() noexcept { is_sealed_ = true; }

  /// True when the end is recorded. Throws: `OperationFailure`, with the culprit where a check
  /// failed; what the control group throws.
  [[nodiscard]] bool try_enqueue();
  [[nodiscard]] bool is_enqueued() const noexcept { return is_dropped_ || in_flight_ != nullptr; }
  /// Requires `is_enqueued()`. Throws: `OperationFailure`.
  [[nodiscard]] bool is_done() { return is_dropped_ || communicator_->is_done(*in_flight_); }
  /// Whether it is to be a part of a graph. What it is called in errors.
  [[nodiscard]] bool is_captured() const noexcept { return is_captured_; }
  [[nodiscard]] const std::string& name() const noexcept { return limit_.op; }
  /// Its end was not recorded when the capture of its graph was over: it begins at a place of a
  /// stream that does not come any more. Drops it unless NCCL has it already, after which it ends
  /// like any other, but writes nothing of the program's that NCCL does not. Returns whether it is
  /// dropped, and so done.
  bool drop_if_captured() noexcept;
  /// Makes the calling thread's current stream wait for the end.
  void order_current_stream();
  [[nodiscard]] std::string describe_missing();

 private:
  [[nodiscard]] bool have_checks_passed();
  /// The calls of all tasks as one group. False while NCCL has something else in progress.
  [[nodiscard]] bool try_enqueue_calls();

  std::shared_ptr<NcclCommunicator> communicator_;
  OperationLimit limit_;
  std::vector<NcclTask> tasks_;
  std::vector<std::unique_ptr<native::DeviceEvent>> starts_;
  std::shared_ptr<InFlightOperation> in_flight_;
  bool is_captured_ = false;  // the streams of its callers were
  bool is_dropped_ = false;
  bool is_sealed_ = false;
  bool are_calls_enqueued_ = false;
};

}  // namespace lockstep
