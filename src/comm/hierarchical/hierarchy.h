// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/exchange/transport.h"
#include "comm/group/host_layout.h"
#include "comm/hierarchical/host_reduction.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

/// What the operations of a group over several hosts work with. All of it outlives them.
struct Hierarchy {
  Transport& transport;  ///< of all ranks of the group: to agree on a call, and between hosts
  HostLayout layout;
  SharedMemoryTransport* local = nullptr;  ///< null: this rank is alone on its host
  MakeHostReduction make_reduction = make_round_reduction;
};

// These collectives use the memory of a host, so that each byte travels to a host only once,
// however many ranks the host has. A barrier, and reductions where hosts are not in rank order,
// work as over the transport alone. Costs are for N bytes on W ranks, L on each of H hosts.

[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_operation(Hierarchy& hierarchy,
                                                                     Collective call);

/// The same operation. Where a connection breaks, it waits a moment, to find out which rank is
/// lost: the memory of that rank's host says who died, and ranks of that host tell the others.
[[nodiscard]] std::unique_ptr<Operation> with_lost_rank_named(Hierarchy& hierarchy,
                                                              std::unique_ptr<Operation> operation);

/// all_reduce and reduce: ranks of a host exchange shares in memory, each share runs along a line
/// of hosts (`HostReduction`), and the host puts the shares together again in memory. The result of
/// an all_reduce comes back along the line: between hosts, each rank sends and receives up to 2 N /
/// L bytes. That of a reduce goes from the last host straight to the root's. The same bits as
/// SharedMemory and Mpi.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_reduction(Hierarchy& hierarchy,
                                                                     Collective call);
/// reduce_scatter: each rank's piece has a line of its own (`HostReduction`), and its result goes
/// from the last host straight to the rank that wants it. The ranks of a host share its part of all
/// lines, and exchange the values for them in memory. Each host sends the sums of N bytes to the
/// next one; over the transport alone it would be the values of each of its ranks. The same bits.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_reduce_scatter(Hierarchy& hierarchy,
                                                                          Collective call);
/// broadcast: one rank of each host, the root on its own, receives the data from another host, and
/// gives it to the others in memory. Pieces of 1 MiB go from host to host along a chain, so that no
/// host sends more than N bytes, in (pieces + H - 2) rounds. What fits into one piece goes along a
/// binomial tree, in log2(H) rounds.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_broadcast(Hierarchy& hierarchy,
                                                                     Collective call);
/// all_gather: each rank sends its own piece to one rank of each other host, so that all ranks
/// drive the links, and that rank gives it to the others there in memory. Each host sends (H - 1) L
/// N bytes, and receives as many, which is the least there can be.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_all_gather(Hierarchy& hierarchy,
                                                                      Collective call);
/// all_to_all, gather and scatter: what stays on the host goes through its memory. Each other byte
/// goes straight from the rank that has it to the rank that wants it, and so crosses a link once,
/// as no other rank wants it; all ranks of a host drive its links. To collect in memory what goes
/// to another host would make fewer messages of it, but each byte would be copied at least twice
/// more: into a slot and out of it.
[[nodiscard]] std::unique_ptr<Operation> make_hierarchical_streams(Hierarchy& hierarchy,
                                                                   Collective call);

}  // namespace lockstep
