// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <memory>

#include "comm/exchange/backend.h"
#include "comm/gloo/rendezvous.h"

namespace lockstep {

/// For a group that is built on this backend. Collective. Throws: as `make_gloo_process_group`.
[[nodiscard]] std::unique_ptr<ExchangeBackend> make_gloo_backend(GroupContext& group,
                                                                 const GlooRendezvous& rendezvous);

/// Ranks of any hosts, over TCP, by the gloo inside LibTorch. CPU tensors. A build without gloo's
/// headers has the same function; it throws. Collective. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_gloo_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    const GlooRendezvous& rendezvous);

}  // namespace lockstep
