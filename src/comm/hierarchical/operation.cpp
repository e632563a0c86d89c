// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/operation.h"

#include <utility>

#include "comm/shared_memory/operation.h"
#include "comm/shared_memory/operations.h"

namespace lockstep {

namespace {

constexpr std::chrono::milliseconds kGraceForRounds{100};

}  // namespace

void MpiHierarchicalOperation::start_local(Collective call) {
  if (hierarchy_.local == nullptr) return;
  local_ = make_shared_memory_operation(*hierarchy_.local, std::move(call));
  local_->try_start(true);
}

bool MpiHierarchicalOperation::is_step_done() {
  if (!requests_.test()) return false;
  requests_.clear();
  if (!local_) return true;
  if (!local_->try_finish()) return false;
  local_.reset();
  return true;
}

void MpiHierarchicalOperation::sleep(std::chrono::nanoseconds limit) {
  if (local_) return local_->sleep(limit);
  ExchangeOperation::sleep(limit);
}

void MpiHierarchicalOperation::check_peers() {
  ExchangeOperation::check_peers();
  if (local_) return local_->check_peers();
  if (hierarchy_.local == nullptr || is_agreed()) return;
  const SharedMemoryCounters& counters = hierarchy_.local->counters();
  const int gone = find_gone();
  if (gone == counters.world_size()) {
    is_suspicious_since_.reset();
    return;
  }
  // The announcement that the rank made before it left may still be on its way.
  const auto now = std::chrono::steady_clock::now();
  if (!is_suspicious_since_) is_suspicious_since_ = now;
  if (now - *is_suspicious_since_ > kGraceForRounds) throw lost(counters, gone);
}

int MpiHierarchicalOperation::find_gone() const {
  // MPI does not say that a process died; the host's memory does.
  const SharedMemoryCounters& counters = hierarchy_.local->counters();
  int index = 0;
  for (; index < counters.world_size(); ++index) {
    const int peer = layout().own_ranks()[static_cast<std::size_t>(index)];
    if (!has_announced(peer) && !counters.can_still_come(index)) break;
  }
  return index;
}

std::string MpiHierarchicalOperation::describe_missing() const {
  return local_ ? local_->describe_missing() : ExchangeOperation::describe_missing();
}

}  // namespace lockstep
