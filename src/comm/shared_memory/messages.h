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
#include "comm/shared_memory/counters.h"
#include "comm/shared_memory/ring_buffer.h"

namespace lockstep {

/// Messages from rank to rank of one shared-memory group: a ring buffer for each pair and
/// direction, and the matching of messages with receives.
///
/// Messages of one pair arrive in the order in which they were sent; a receive takes the first one
/// with its tag. Unexpected messages, which come before that one, are kept in ordinary memory until
/// their receives are called; nothing is read from a rank's buffer while no receive from that rank
/// is under way. A message that fits the buffer is sent when its send is called. Thread-safety: as
/// the group's.
class SharedMemoryMessages {
 public:
  /// The part of the control memory that the ring buffers need.
  [[nodiscard]] static std::size_t bytes_needed(int world_size);

  /// `memory` is zeroed, aligned to 64; it and `counters` outlive this object.
  SharedMemoryMessages(std::byte* memory, const SharedMemoryCounters& counters);
  ~SharedMemoryMessages();

  /// Contiguous tensors.
  [[nodiscard]] std::unique_ptr<Operation> send(at::Tensor tensor, int to, int tag);
  [[nodiscard]] std::unique_ptr<Operation> receive(at::Tensor tensor, int from, int tag);

 private:
  struct UnexpectedMessage;
  struct Peer;
  class Send;
  class Receive;

  [[nodiscard]] RingBuffer buffer(std::byte* memory, int from, int to) const;
  void check_peer(int peer) const;
  /// Reads what has come from `peer`, as long as a receive from it is under way.
  void drain(Peer& peer);
  /// False when no message begins, or no receive is under way.
  [[nodiscard]] bool begin_message(Peer& peer);
  void deliver_unexpected(Peer& peer);
  /// The first receive that waits for such a message, or null.
  [[nodiscard]] Receive* take_receive(Peer& peer, const MessageHeader& header);

  const SharedMemoryCounters& counters_;
  std::vector<std::shared_ptr<Peer>> peers_;  // their operations may outlive this object
};

}  // namespace lockstep
