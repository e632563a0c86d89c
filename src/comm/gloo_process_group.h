// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace lockstep {

/// Where ranks meet over TCP, as torchrun says it.
struct GlooRendezvous {
  std::string host;
  std::uint16_t port = 0;
  bool has_server = false;  ///< the launcher serves there; otherwise rank 0 does

  /// MASTER_ADDR, MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE. Throws: `LaunchError` for what is
  /// missing or garbled.
  [[nodiscard]] static GlooRendezvous detect();
};

/// Ranks of any hosts, over TCP, by the gloo inside LibTorch. CPU tensors. A build without gloo's
/// headers has the same function; it throws. Collective. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_gloo_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    const GlooRendezvous& rendezvous);

/// Held around every call that starts work, of whichever group in this process: c10d notes them all
/// in one flight recorder, which adds a group to its map without a lock (LibTorch 2.11), so that
/// two groups that begin in two threads would break it.
[[nodiscard]] std::unique_lock<std::mutex> lock_gloo_start();

}  // namespace lockstep
