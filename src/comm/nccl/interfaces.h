// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

#include "native/posix/tcp_socket.h"

namespace lockstep {

/// The network interfaces that NCCL's sockets use on this host: to bring the ranks together, and
/// for the data where NCCL has nothing better, such as InfiniBand.
struct NcclInterfaces {
  /// What `NCCL_SOCKET_IFNAME` is to say; empty: it stays as it is.
  std::string names;
  /// For the log: which interfaces, and why.
  std::string description;
  /// Whether there are any. Without them, NCCL cannot connect the ranks.
  bool has_any = true;
};

/// `of_nccl`, `of_lockstep`: what `NCCL_SOCKET_IFNAME` and `LOCKSTEP_INTERFACES` say; empty: they
/// are not set. The first counts, as NCCL reads it. `addresses`: of this host.
[[nodiscard]] NcclInterfaces choose_nccl_interfaces(
    const std::string& of_nccl, const std::string& of_lockstep,
    const std::vector<native::InterfaceAddress>& addresses);

/// The same for this process, once: from then on, `NCCL_SOCKET_IFNAME` is set where it is to be.
/// Comes before the first call of NCCL, which reads the variable only then.
/// Thread-safety: any thread; no other thread reads the environment during the first call.
[[nodiscard]] const NcclInterfaces& set_nccl_interfaces();

}  // namespace lockstep
