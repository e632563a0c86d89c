// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// Where the rendezvous over TCP is, as torchrun says it.
struct GlooRendezvous {
  std::string host;
  std::uint16_t port = 0;
  bool has_server = false;  ///< the launcher serves there; otherwise rank 0 does

  /// MASTER_ADDR, MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE. Throws: `LaunchError` for what is
  /// missing or garbled.
  [[nodiscard]] static GlooRendezvous detect();
};

}  // namespace lockstep
