// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "comm/nccl/launch.h"

namespace lockstep {

/// The launches of a group that are not enqueued yet, oldest first. All ranks must enqueue in the
/// order of their calls, collectives and messages alike, because these share a stream.
///
/// Thread-safety: one thread at a time.
class LaunchQueue {
 public:
  /// `peer_watch`: may be null.
  explicit LaunchQueue(NcclCommunicator::PeerWatch peer_watch)
      : peer_watch_(std::move(peer_watch)) {}

  void push(std::shared_ptr<NcclLaunch> launch) { launches_.push_back(std::move(launch)); }
  [[nodiscard]] bool is_empty() const noexcept { return launches_.empty(); }
  /// Enqueues launches until one cannot be enqueued yet. Never blocks. Throws: see
  /// `NcclLaunch::try_enqueue`.
  void advance();
  /// See `NcclLaunch::drop_if_captured`. Returns the name of the oldest launch that was to go into
  /// the graph; empty: there is none.
  std::string drop_captured();
  /// Throws: `OperationFailure` when a peer has gone.
  void check_peers() const;
  /// Says what the oldest launch waits for. Requires that there is one.
  [[nodiscard]] std::string describe_missing() { return launches_.front()->describe_missing(); }

 private:
  NcclCommunicator::PeerWatch peer_watch_;
  std::deque<std::shared_ptr<NcclLaunch>> launches_;
};

}  // namespace lockstep
