// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "comm/nccl/launch.h"

namespace lockstep {

/// The NCCL calls of a collective. Which calls these are follows only from the sizes, which all
/// ranks know alike. Addresses must not matter, or ranks would make different calls.
///
/// | collective     | equal pieces                          | pieces of different sizes   |
/// |----------------|---------------------------------------|-----------------------------|
/// | AllGather      | one call; copies where outputs do not | a broadcast from each rank  |
/// |                | lie one behind the other              |                             |
/// | ReduceScatter  | one call; copies likewise             | a reduce to each rank       |
/// | Gather, Scatter, AllToAll | messages, and a copy of this rank's own piece           |
///
/// Throws: see `plan_nccl_reduction`.
[[nodiscard]] NcclTask make_nccl_task(Collective call, int rank, int world_size, int capability);
[[nodiscard]] NcclTask make_nccl_send(at::Tensor tensor, int to);
[[nodiscard]] NcclTask make_nccl_receive(at::Tensor tensor, int from);

}  // namespace lockstep
