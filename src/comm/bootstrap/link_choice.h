// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <string>

#include "comm/hierarchical/host_link.h"

namespace lockstep {

/// Whether MPI carries the data between hosts rather than TCP sockets of our own, which move it
/// while the program computes, as MPI does not.
[[nodiscard]] bool is_mpi_faster(const LinkSpeed& mpi, const LinkSpeed& tcp);
using CompareLinks = std::function<bool(const LinkSpeed& mpi, const LinkSpeed& tcp)>;

/// For a `TcpBackend`: measures the links, and chooses what it sends at once. `may_be_mpi`: its
/// ranks meet over MPI, which is measured too, and takes over where it is so much faster. See
/// `ChooseHostLink`.
[[nodiscard]] std::string choose_link_beside_tcp(GroupContext& group, HostLink& link,
                                                 const HostLayout& layout, bool may_be_mpi,
                                                 const CompareLinks& compare = is_mpi_faster);

}  // namespace lockstep
