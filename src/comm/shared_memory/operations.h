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

/// all_reduce and reduce. In group memory: every rank reduces its share of all ranks' blocks and
/// writes it to those that want it; nothing is copied. Elsewhere: a chunk at a time through the
/// staging slots; chunks of a few KiB are reduced by every rank for itself, which saves one of the
/// two meetings. 2 meetings; each rank reads N and writes N bytes in place, 3 N more when staged.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_reduction(
    SharedMemoryTransport& transport, Collective call);

/// reduce_scatter: every rank reduces what it wants. Of group memory it reads all ranks' blocks
/// where they are; other tensors pass through the slots, a chunk of every piece at a time.
/// 1 meeting a chunk, in group memory 2 in all.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_reduce_scatter(
    SharedMemoryTransport& transport, Collective call);

/// All that only moves bytes. Out of group memory readers copy from where the source lies; other
/// tensors pass through the slots. 1 meeting a chunk, in group memory 2 in all.
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_move(SharedMemoryTransport& transport,
                                                                 Collective call);

/// A meeting of all ranks; `bytes` must be the same everywhere (the size of a joint
/// allocation).
[[nodiscard]] std::unique_ptr<Operation> make_shared_memory_barrier(
    SharedMemoryTransport& transport, std::size_t bytes);

}  // namespace lockstep
