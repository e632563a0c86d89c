// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <functional>
#include <memory>

#include "comm/exchange/backend.h"
#include "comm/hierarchical/host_link.h"
#include "comm/hierarchical/host_reduction.h"

namespace lockstep {

using MakeExchangeBackend = std::function<std::unique_ptr<ExchangeBackend>(GroupContext&)>;

/// Ranks of any hosts: shared memory inside a host, and the backend that `make_between` makes
/// between hosts. CPU tensors. `make_reduction`: for that backend's transport. `choose`: called
/// where there are several hosts; empty: nothing is measured. Collective. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_hierarchical_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    const MakeExchangeBackend& make_between, MakeHostReduction make_reduction,
    const ChooseHostLink& choose = {});

}  // namespace lockstep
