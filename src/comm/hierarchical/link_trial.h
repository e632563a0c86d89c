// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "comm/exchange/backend.h"
#include "comm/exchange/link_speed.h"
#include "comm/group/host_layout.h"

namespace lockstep {

/// Measures over a backend of a group that has several hosts, and returns the figures of the
/// slowest rank to all. Takes the best of some exchanges, of 2 MiB altogether, so that a connection
/// has got up to speed and a busy moment does not count.
///
/// Collective. Blocks: the calling thread. Throws: the group's failure.
[[nodiscard]] LinkSpeed measure_link(GroupContext& group, ExchangeBackend& backend,
                                     const HostLayout& layout);

/// Collective. Blocks: the calling thread. Throws: the group's failure.
[[nodiscard]] bool is_true_on_all_ranks(GroupContext& group, ExchangeBackend& backend, bool is_so);

}  // namespace lockstep
