// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <functional>
#include <memory>
#include <string>

#include "comm/collective/collective.h"

namespace lockstep {

/// Compares what ranks tell each other about a call over the control group, before any of the call
/// is enqueued. A check starts when it is made, in the order of the calls, and goes on inside
/// calls.
class CollectiveCheck {
 public:
  virtual ~CollectiveCheck() = default;

  /// True when all agree. Never blocks. Throws: `OperationFailure` where they do not; what the
  /// control group throws.
  [[nodiscard]] bool is_passed();
  /// Says which ranks have told nothing yet. Ends the control group.
  [[nodiscard]] std::string describe_missing();

 protected:
  explicit CollectiveCheck(Work work) : work_(std::move(work)) {}
  /// Throws: `OperationFailure`.
  virtual void compare() = 0;

 private:
  Work work_;
  bool is_passed_ = false;
};

/// Compares the fingerprints of all ranks and, where only two ranks know it, how much one sends to
/// the other. This is a barrier, too. Source: ExchangeOperation does the same with messages.
[[nodiscard]] std::unique_ptr<CollectiveCheck> check_collective(ProcessGroup& control,
                                                                const Collective& call);
/// Checks that all ranks want as many bytes.
[[nodiscard]] std::unique_ptr<CollectiveCheck> check_allocation(ProcessGroup& control,
                                                                std::size_t bytes);
/// Sends or receives a header on the control group, where no message of the program comes between.
using StartMessage = std::function<Work(const at::Tensor& header)>;
/// Sends the header of a message ahead of it. NCCL's messages know no tags, so that headers match
/// in order, and the tag is one of the things that are compared.
[[nodiscard]] std::unique_ptr<CollectiveCheck> check_send(const StartMessage& send,
                                                          const at::Tensor& tensor, int tag);
[[nodiscard]] std::unique_ptr<CollectiveCheck> check_receive(const StartMessage& receive,
                                                             const at::Tensor& tensor, int from,
                                                             int tag);

}  // namespace lockstep
