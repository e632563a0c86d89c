// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <functional>
#include <memory>
#include <string>

#include "comm/collective/collective.h"

namespace lockstep {

/// What ranks tell each other about a call over the side group, before any of it is enqueued.
/// Starts when it is made, in the order of the calls; goes on inside calls.
class NcclCheck {
 public:
  virtual ~NcclCheck() = default;

  /// True when all agree. Never blocks. Throws: `OperationFailure` where they do not; what the side
  /// group throws.
  [[nodiscard]] bool is_passed();
  /// Who has not said anything yet. Ends the side group.
  [[nodiscard]] std::string describe_missing();

 protected:
  explicit NcclCheck(Work work) : work_(std::move(work)) {}
  /// Throws: `OperationFailure`.
  virtual void compare() = 0;

 private:
  Work work_;
  bool is_passed_ = false;
};

/// Fingerprints of all ranks, and who sends how much to whom where only the two know. Also a
/// barrier. Source: MpiOperation does the same with messages.
[[nodiscard]] std::unique_ptr<NcclCheck> check_collective(ProcessGroup& side,
                                                          const Collective& call);
/// That all ranks want as many bytes.
[[nodiscard]] std::unique_ptr<NcclCheck> check_allocation(ProcessGroup& side, std::size_t bytes);
/// Sends or receives a header on the side group, where no message of the program can come between.
using StartMessage = std::function<Work(const at::Tensor& header)>;
/// The header of a message, ahead of it. NCCL's messages know no tags, so that headers match in
/// order, and the tag is one of the things that are compared.
[[nodiscard]] std::unique_ptr<NcclCheck> check_send(const StartMessage& send,
                                                    const at::Tensor& tensor, int tag);
[[nodiscard]] std::unique_ptr<NcclCheck> check_receive(const StartMessage& receive,
                                                       const at::Tensor& tensor, int from, int tag);

}  // namespace lockstep
