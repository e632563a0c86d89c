// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

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

/// Throws `OperationFailure` when another rank has said that it gave up, and what it sent before
/// has had time to come: between two communicators its word may overtake that.
void check_mpi_peers(MpiChannels& channels);

/// Asks all other ranks whether they are there, which those answer that wait for anything in this
/// group. Returns what the first said that gave up meanwhile, else "rank 1 has arrived, but does
/// not answer" for each that stays silent. Blocks: half a second at most.
[[nodiscard]] std::string find_silent_mpi_peers(MpiChannels& channels);

}  // namespace lockstep
