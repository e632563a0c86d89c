// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/types.h>

#include <memory>
#include <vector>

#include "comm/operation.h"
#include "comm/shared_memory_transport.h"

namespace lockstep {

// The collectives of the shared-memory backend; step 7 of the gradient path. Tensors are dense CPU
// tensors (no gaps) with at least one element. `transport` outlives the operations.

/// In group memory: every rank reduces its share of all ranks' blocks and writes it to all of them;
/// nothing is copied. Elsewhere: a chunk at a time through the staging slots; chunks of a few KiB
/// are reduced by every rank for itself, which saves one of the two meetings. Cost for N bytes on W
/// ranks: 2 meetings; each rank reads N and writes N bytes in place, 3 N more when staged.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_all_reduce(
    SharedMemoryTransport& transport, at::Tensor tensor, ReduceOp op);

[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_broadcast(
    SharedMemoryTransport& transport, at::Tensor tensor, int root);

/// One output a rank.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_all_gather(
    SharedMemoryTransport& transport, std::vector<at::Tensor> outputs, at::Tensor input);

/// A meeting of all ranks; `bytes` must be the same everywhere (the size of a joint allocation,
/// else 0).
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_barrier(
    SharedMemoryTransport& transport, std::size_t bytes = 0);

}  // namespace lockstep
