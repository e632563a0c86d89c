// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/launch_queue.h"

#include <algorithm>

namespace lockstep {

void LaunchQueue::advance() {
  while (!launches_.empty() && launches_.front()->try_enqueue()) launches_.pop_front();
}

std::string LaunchQueue::drop_captured() {
  const auto oldest = std::find_if(launches_.begin(), launches_.end(),
                                   [](const auto& launch) { return launch->is_captured(); });
  std::string missing = oldest == launches_.end() ? "" : (*oldest)->name();
  std::erase_if(launches_, [](const auto& launch) { return launch->drop_if_captured(); });
  return missing;
}

void LaunchQueue::check_peers() const {
  const std::string lost = peer_watch_ ? peer_watch_() : "";
  if (!lost.empty()) throw OperationFailure{OperationFailure::Kind::PeerLost, lost, ""};
}

}  // namespace lockstep
