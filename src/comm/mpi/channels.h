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

  /// The abort notice that came first: its text, and when it came.
  struct AbortNotice {
    std::string text;
    std::chrono::steady_clock::time_point since;
  };
  std::optional<AbortNotice> abort_notice;
  /// The ranks that have answered this rank's question; see `find_silent_mpi_peers`.
  std::set<int> answers;
};

/// Sends all other ranks a notice that this one aborts, and why. Does not wait; never throws.
void announce_mpi_abort(MpiChannels& channels, const std::string& reason) noexcept;

/// Throws `OperationFailure` when another rank's abort notice has come, and what that rank sent
/// before has had time to come too: a notice may overtake messages on another communicator.
void check_mpi_peers(MpiChannels& channels);

/// Asks all other ranks whether they are alive; those that wait for anything in this group answer.
/// Returns the text of an abort notice if one comes meanwhile, else "rank 1 has arrived, but does
/// not answer" for each rank that stays silent. Blocks: half a second at most.
[[nodiscard]] std::string find_silent_mpi_peers(MpiChannels& channels);

}  // namespace lockstep
