// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/value_synchronizer.h"

#include <utility>

namespace lockstep {

void ValueSynchronizer::synchronize(ProcessGroup& group, bool is_active, int leader) {
  synchronize_buffers(group, is_active, leader);
  broadcast_tensors(group, std::exchange(shared_, {}), 0);
}

void ValueSynchronizer::synchronize_buffers(ProcessGroup& group, bool is_active, int leader) {
  if (sync_ == BufferSync::Local) return;
  NamedTensors buffers = buffers_();
  if (buffers.empty()) return;
  // The version counters stay as they are, as where batch norm itself writes its running
  // statistics. Graphs of other forwards hold those tensors, and read them in evaluation only.
  for (auto& [name, buffer] : buffers) buffer = buffer.variable_data();
  if (sync_ == BufferSync::Broadcast) return broadcast_tensors(group, buffers, leader);
  average_tensors(group, buffers, is_active, leader);
}

}  // namespace lockstep
