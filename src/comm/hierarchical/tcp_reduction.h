// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "comm/hierarchical/host_reduction.h"

namespace lockstep {

/// For `TcpTransport`: the engine of the transport moves the sums, also while the program computes
/// (`TcpChainReduction`). The lines of a rank follow one another.
[[nodiscard]] std::unique_ptr<HostReduction> make_tcp_host_reduction(Transport& transport,
                                                                     at::ScalarType dtype,
                                                                     ReduceOp op);

}  // namespace lockstep
