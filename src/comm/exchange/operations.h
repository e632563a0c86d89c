// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/exchange/transport.h"

namespace lockstep {

// Everything that a group does, for any transport. The transport outlives the operations. Tensors
// may have any size: they travel in chunks. Costs are for N bytes on W ranks.

/// Any collective.
[[nodiscard]] std::unique_ptr<Operation> make_exchange_operation(Transport& transport,
                                                                 Collective call);
/// A barrier; `bytes` must be the same on all ranks (the size of a joint allocation).
[[nodiscard]] std::unique_ptr<Operation> make_exchange_barrier(Transport& transport,
                                                               std::size_t bytes);
/// A message to, or from, one rank.
[[nodiscard]] std::unique_ptr<Operation> make_exchange_send(Transport& transport, at::Tensor tensor,
                                                            int to, int tag);
[[nodiscard]] std::unique_ptr<Operation> make_exchange_receive(Transport& transport,
                                                               at::Tensor tensor, int from,
                                                               int tag);

// Parts of `make_exchange_operation`.

/// all_reduce and reduce: an all-to-all of shares, a sum in rank order, then an all-gather, or a
/// gather to the root. A library's own reduction adds in an order that depends on its algorithm.
/// Each rank sends and receives 2 N (W - 1) / W bytes.
[[nodiscard]] std::unique_ptr<Operation> make_exchange_reduction(Transport& transport,
                                                                 Collective call);
/// reduce_scatter: every rank sends each other rank that one's piece, and sums what comes.
/// N (W - 1) / W bytes.
[[nodiscard]] std::unique_ptr<Operation> make_exchange_reduce_scatter(Transport& transport,
                                                                      Collective call);
/// Data movement: broadcast, gathers, scatter and all_to_all.
[[nodiscard]] std::unique_ptr<Operation> make_exchange_data_movement(Transport& transport,
                                                                     Collective call);

}  // namespace lockstep
