// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <functional>
#include <utility>

#include "parallel/ddp/module_state.h"

namespace lockstep {

/// Makes other values than gradients alike on all ranks at the end of an iteration: buffers, as
/// `BufferSync` says, and tensors that the program shares once.
///
/// Thread-safety: guarded by the reducer's lock.
class ValueSynchronizer {
 public:
  /// `buffers` returns the buffers that there are when it is called.
  ValueSynchronizer(std::function<NamedTensors()> buffers, BufferSync sync)
      : buffers_(std::move(buffers)), sync_(sync) {}

  /// Tensors that get rank 0's values at the end of the next iteration. The same on all ranks.
  void share(const NamedTensors& tensors) {
    shared_.insert(shared_.end(), tensors.begin(), tensors.end());
  }
  [[nodiscard]] const NamedTensors& shared() const noexcept { return shared_; }

  /// `is_active`: whether this rank had data. `leader`: a rank that had.
  /// Blocks: the calling thread. Collective: all ranks.
  void synchronize(ProcessGroup& group, bool is_active, int leader);

 private:
  void synchronize_buffers(ProcessGroup& group, bool is_active, int leader);

  std::function<NamedTensors()> buffers_;
  BufferSync sync_;
  NamedTensors shared_;
};

}  // namespace lockstep
