// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "comm/tcp/stream.h"

namespace lockstep {

/// What is said of a message before its bytes; the mailbox does not look into it.
using TcpMessageHeader = std::array<std::byte, 16>;

/// A message that this rank sends or receives.
/// Thread-safety: the atomics from any thread, the rest under `TcpEngine::mutex`.
struct TcpMessage {
  TcpMessageHeader header{};   ///< of a receiver: the one that has come
  std::span<std::byte> bytes;  ///< not written to by a sender
  std::atomic<bool> has_header = false;
  std::atomic<bool> is_done = false;
  std::function<void()> on_done;  ///< called once
};

/// Messages between two ranks. They keep their order under one tag, and never wait for those under
/// other tags. A short message goes out at once with its header, and waits in the memory of the
/// receiver. Of a long one the header goes first, and the bytes when the receiver has asked for
/// them.
///
/// Thread-safety: under `TcpEngine::mutex`. Holds no torch.
class TcpMailbox {
 public:
  struct Head {
    TcpMessageHeader header;
    std::uint64_t id = 0;  ///< of a long message; the sender's
    std::uint64_t bytes = 0;
    std::int32_t tag = 0;
    std::uint32_t is_short = 0;
  };
  /// How a head, with the bytes of a short message, or the question for the bytes of message `id`
  /// goes to a rank.
  struct Wire {
    std::function<void(int peer, const Head& head, std::span<const std::byte> bytes)> send_head;
    std::function<void(int peer, std::uint64_t id)> ask;
  };

  /// `streams`: for the bytes of long messages, by rank; that of this rank is null.
  TcpMailbox(int rank, std::vector<TcpStream*> streams, Wire wire)
      : rank_(rank), streams_(std::move(streams)), wire_(std::move(wire)) {}

  /// The memory stays until the message is done or the streams are abandoned.
  void send(int to, int tag, std::shared_ptr<TcpMessage> message);
  void receive(int from, int tag, std::shared_ptr<TcpMessage> message);

  // What comes from other ranks.
  void take_head(int from, const Head& head, std::span<const std::byte> bytes);
  void take_question(int from, std::uint64_t id);

  /// Forgets all messages; their memory is the caller's again. What comes later is dropped.
  void abandon();

 private:
  struct Waiting {
    Head head;
    std::vector<std::byte> bytes;     // of a short message
    std::shared_ptr<TcpMessage> own;  // of a message to this rank itself
  };
  struct Lane {
    std::deque<Waiting> come;
    std::deque<std::shared_ptr<TcpMessage>> wanted;
  };

  void match(int from, Lane& lane);
  void deliver(int from, Waiting waiting, const std::shared_ptr<TcpMessage>& message);

  int rank_;
  std::vector<TcpStream*> streams_;
  Wire wire_;
  std::map<std::pair<int, int>, Lane> lanes_;  // by rank and tag
  std::map<std::uint64_t, std::shared_ptr<TcpMessage>> sent_;
  std::uint64_t next_id_ = 0;
  bool is_abandoned_ = false;
};

}  // namespace lockstep
