// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi_hierarchical_operation.h"

#include <ATen/ops/from_blob.h>

#include <utility>

#include "comm/shared_memory_operation.h"
#include "comm/shared_memory_operations.h"

namespace lockstep {

at::Tensor tensor_of(std::span<std::byte> bytes) {
  return at::from_blob(bytes.data(), {static_cast<std::int64_t>(bytes.size())}, at::kByte);
}

void MpiHierarchicalOperation::start_local(Collective call) {
  if (hierarchy_.local == nullptr) return;
  local_ = make_shared_memory_operation(*hierarchy_.local, std::move(call));
  local_->try_start(true);
}

bool MpiHierarchicalOperation::is_step_done() {
  if (!local_) return true;
  if (!local_->try_finish()) return false;
  local_.reset();
  return true;
}

void MpiHierarchicalOperation::sleep(std::chrono::nanoseconds limit) {
  if (local_) return local_->sleep(limit);
  MpiOperation::sleep(limit);
}

void MpiHierarchicalOperation::check_peers() {
  MpiOperation::check_peers();
  if (local_) return local_->check_peers();
  if (hierarchy_.local == nullptr || is_agreed()) return;
  // MPI does not say that a process died; the host's memory does.
  const SharedMemoryRounds& rounds = hierarchy_.local->rounds();
  for (int index = 0; index < rounds.world_size(); ++index) {
    const int peer = layout().own_ranks()[static_cast<std::size_t>(index)];
    if (!has_announced(peer) && !rounds.can_still_come(index)) throw lost(rounds, index);
  }
}

std::string MpiHierarchicalOperation::describe_missing() const {
  return local_ ? local_->describe_missing() : MpiOperation::describe_missing();
}

}  // namespace lockstep
