// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "native/mpi/mpi_environment.h"

namespace lockstep {

/// The communicators of a group. Fingerprints are announced ahead, in the order of the calls; data
/// moves for the oldest collective only; messages between two ranks move when they like. On one
/// communicator the three orders would mix differently on different ranks.
struct MpiChannels {
  /// Collective over MPI_COMM_WORLD, or over these ranks of `parent`.
  MpiChannels() = default;
  MpiChannels(const MpiChannels& parent, const std::vector<int>& members)
      : fingerprints(parent.data, members),
        data(parent.data, members),
        messages(parent.data, members) {}

  native::MpiCommunicator fingerprints;
  native::MpiCommunicator data;
  native::MpiCommunicator messages;
  std::uint64_t announced = 0;

  /// What the first rank that gave up said, and since when this rank knows.
  struct Word {
    std::string text;
    std::chrono::steady_clock::time_point since;
  };
  std::optional<Word> word;
  /// Who has answered this rank's question; see `find_silent_mpi_peers`.
  std::set<int> answers;
};

/// Tells all other ranks that this one gives up, and why. Does not wait; never throws.
void announce_leaving(MpiChannels& channels, const std::string& reason) noexcept;

// The collectives of the MPI backend, for tensors of any size: they travel in chunks whose bytes an
// `int` can count. `channels` outlives the operations. Costs are for N bytes on W ranks.

/// A message of any size to, or from, one rank.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_send(MpiChannels& channels, at::Tensor tensor,
                                                       int to, int tag);
[[nodiscard]] std::unique_ptr<Operation> make_mpi_receive(MpiChannels& channels, at::Tensor tensor,
                                                          int from, int tag);

/// A meeting of all ranks; `bytes` must be the same everywhere (the size of a joint allocation).
[[nodiscard]] std::unique_ptr<Operation> make_mpi_barrier(MpiChannels& channels, std::size_t bytes);

/// Any collective.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_operation(MpiChannels& channels, Collective call);

/// Reduce-scatter by all-to-all, summed in rank order, then all-gather (or gather, to the root of a
/// reduce): MPI's own reduction adds in an order that depends on its algorithm. Each rank sends and
/// receives 2 N (W - 1) / W bytes.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_reduction(MpiChannels& channels, Collective call);
/// Every rank sends every other the piece that is its, and sums what comes. N (W - 1) / W bytes.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_reduce_scatter(MpiChannels& channels,
                                                                 Collective call);
/// Broadcasts are MPI's; every other stream is a message of its own from rank to rank.
[[nodiscard]] std::unique_ptr<Operation> make_mpi_move(MpiChannels& channels, Collective call);

}  // namespace lockstep
