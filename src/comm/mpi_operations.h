// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/operation.h"
#include "native/mpi/mpi_environment.h"

namespace lockstep {

/// The two communicators of a group. Fingerprints are announced ahead, in the order of the calls;
/// data moves for the oldest collective only. On one communicator the two orders would mix
/// differently on different ranks.
struct MpiChannels {
  native::MpiCommunicator fingerprints;
  native::MpiCommunicator data;
  std::uint64_t announced = 0;
};

// The collectives of the MPI backend. Tensors are dense CPU tensors (no gaps) with at least one
// element, of any size: they travel in chunks whose bytes an `int` can count. `channels` outlives
// the operations.

/// Tells all other ranks that this one gives up, and why. Does not wait; never throws.
void announce_leaving(MpiChannels& channels, const std::string& reason) noexcept;

/// Reduce-scatter by all-to-all, summed in rank order, then all-gather: MPI's own reduction adds in
/// an order that depends on its algorithm. Cost for N bytes on W ranks: each rank sends and
/// receives 2 N (W - 1) / W bytes.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_all_reduce(MpiChannels& channels,
                                                             at::Tensor tensor, ReduceOp op);
[[nodiscard]] std::unique_ptr<Operation> make_mpi_broadcast(MpiChannels& channels,
                                                            at::Tensor tensor, int root);
[[nodiscard]] std::unique_ptr<Operation> make_mpi_all_gather(MpiChannels& channels,
                                                             std::vector<at::Tensor> outputs,
                                                             at::Tensor input);
[[nodiscard]] std::unique_ptr<Operation> make_mpi_barrier(MpiChannels& channels);

}  // namespace lockstep
