// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/launch_queue.h"

namespace lockstep {

void LaunchQueue::advance() {
  while (!launches_.empty() && launches_.front()->try_enqueue()) launches_.pop_front();
}

void LaunchQueue::check_peers() const {
  const std::string lost = peer_watch_ ? peer_watch_() : "";
  if (!lost.empty()) throw OperationFailure{OperationFailure::Kind::PeerLost, lost, ""};
}

}  // namespace lockstep
