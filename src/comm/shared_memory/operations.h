// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

// The collectives of the shared-memory backend; step 7 of the gradient path. `transport` outlives
// the operations. Costs are for N bytes on W ranks.

/// Any collective.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_operation(
    SharedMemoryTransport& transport, Collective call);

/// all_reduce and reduce. In registered memory, every rank reduces its share of all ranks' blocks
/// and writes it to those that want it; nothing is copied. Other tensors pass through the staging
/// slots, a chunk at a time; chunks of a few KiB are reduced by every rank for itself, which saves
/// one of the two synchronisation steps. 2 steps; each rank reads N and writes N bytes in place, 3
/// N more when staged.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_reduction(
    SharedMemoryTransport& transport, Collective call);

/// reduce_scatter: every rank reduces what it wants. In registered memory it reads all ranks'
/// blocks where they are; other tensors pass through the slots, a chunk of every piece at a time.
/// 1 synchronisation step a chunk, in registered memory 2 in all.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_reduce_scatter(
    SharedMemoryTransport& transport, Collective call);

/// Data movement. In registered memory, readers copy from where the source lies; other tensors pass
/// through the slots. 1 synchronisation step a chunk, in registered memory 2 in all.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_data_movement(
    SharedMemoryTransport& transport, Collective call);

/// A barrier; `bytes` must be the same on all ranks (the size of a joint allocation).
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_barrier(
    SharedMemoryTransport& transport, std::size_t bytes);

}  // namespace lockstep
