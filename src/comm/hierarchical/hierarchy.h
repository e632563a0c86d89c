// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <optional>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/group/host_layout.h"
#include "comm/mpi/transport.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

/// What the operations of a group over several hosts work with. All of it outlives them.
struct MpiHierarchy {
  MpiTransport& transport;
  HostLayout layout;
  SharedMemoryTransport* local = nullptr;          ///< null: this rank is alone on its host
  std::optional<native::MpiCommunicator> leaders;  ///< each host's first rank; only they have it
};

// These collectives use the memory of a host, so that each byte travels to a host only once,
// however many ranks the host has. The Mpi backend does every other collective, and reductions
// where hosts are not in rank order. Costs are for N bytes on W ranks, L on each of H hosts.

[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_operation(MpiHierarchy& hierarchy,
                                                                     Collective call);

/// all_reduce and reduce: ranks of a host exchange shares in memory, each share runs along a chain
/// of hosts and back (`MpiChain`), and the host puts the shares together again in memory. Between
/// hosts, each rank sends and receives up to 2 N / L bytes. The same bits as SharedMemory and Mpi.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_reduction(MpiHierarchy& hierarchy,
                                                                     Collective call);
/// The data goes in memory to the first rank of the root's host, by MPI's broadcast to the first
/// rank of each other host, and in memory to the other ranks there.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_broadcast(MpiHierarchy& hierarchy,
                                                                     Collective call);
/// The first rank of each host gathers the host's pieces in memory, first ranks exchange all pieces
/// of their hosts, and the other ranks get them in memory.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_all_gather(MpiHierarchy& hierarchy,
                                                                      Collective call);

}  // namespace lockstep
