// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/in_flight_operation.h"

namespace lockstep {

void InFlightQueue::push(std::shared_ptr<InFlightOperation> operation) {
  begun_.reset();
  operations_.push_back(std::move(operation));
}

void InFlightQueue::drop_done() {
  while (!operations_.empty()) {
    InFlightOperation& oldest = *operations_.front();
    oldest.is_done = oldest.end.is_done();
    if (!oldest.is_done) return;
    operations_.pop_front();
    if (operations_.empty()) return;
    InFlightOperation& next = *operations_.front();
    if (next.time_alone) next.limit.deadline = Deadline::after(*next.time_alone);
  }
}

const OperationLimit* InFlightQueue::oldest_limit() const {
  if (!operations_.empty()) return &operations_.front()->limit;
  return begun_ ? &*begun_ : nullptr;
}

}  // namespace lockstep
