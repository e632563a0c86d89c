// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/collective/message.h"
#include "comm/collective/operation.h"
#include "comm/shared_memory/pipe.h"
#include "comm/shared_memory/rounds.h"

namespace lockstep {

/// Messages from rank to rank of one shared-memory group: a pipe for each pair and direction, and
/// the matching of messages with those who wait for them.
///
/// Messages of one pair arrive in the order in which they were sent; a receive takes the first one
/// with its tag. What comes before it is kept in ordinary memory until somebody asks for it;
/// nothing is taken out of a pipe while nobody receives from that rank. A message that fits the
/// pipe is sent when its send is called. Thread-safety: as the group's.
class SharedMemoryMessages {
 public:
  /// The part of the control memory that the pipes need.
  [[nodiscard]] static std::size_t bytes_needed(int world_size);

  /// `memory` is zeroed, aligned to 64; it and `rounds` outlive this object.
  SharedMemoryMessages(std::byte* memory, const SharedMemoryRounds& rounds);
  ~SharedMemoryMessages();

  /// Contiguous tensors.
  [[nodiscard]] std::unique_ptr<Operation> send(at::Tensor tensor, int to, int tag);
  [[nodiscard]] std::unique_ptr<Operation> receive(at::Tensor tensor, int from, int tag);

 private:
  struct Letter;
  struct Peer;
  class Send;
  class Receive;

  [[nodiscard]] SharedMemoryPipe pipe(std::byte* memory, int from, int to) const;
  void check_peer(int peer) const;
  /// Takes what has come from `peer` out of its pipe, as long as somebody receives from it.
  void drain(Peer& peer);
  /// False when no message begins, or nobody would want one.
  [[nodiscard]] bool begin_message(Peer& peer);
  void hand_over_kept(Peer& peer);
  /// The first receive that waits for such a message, or null.
  [[nodiscard]] Receive* take_receive(Peer& peer, const MessageHeader& header);

  const SharedMemoryRounds& rounds_;
  std::vector<std::shared_ptr<Peer>> peers_;  // their operations may outlive this object
};

}  // namespace lockstep
