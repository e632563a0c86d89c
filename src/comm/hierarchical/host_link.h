// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/exchange/backend.h"
#include "comm/exchange/link_speed.h"
#include "comm/group/host_layout.h"
#include "comm/hierarchical/host_reduction.h"

namespace lockstep {

/// What carries data between hosts.
struct HostLink {
  std::unique_ptr<ExchangeBackend> backend;
  MakeHostReduction make_reduction = make_round_reduction;  ///< for the transport of `backend`
};

/// Measures the link, when its backend has started, and may put another one in its place. The same
/// choice on all ranks. Collective. Returns what it has chosen and why, in a few words.
using ChooseHostLink =
    std::function<std::string(GroupContext& group, HostLink& link, const HostLayout& layout)>;

}  // namespace lockstep
