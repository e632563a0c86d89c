// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/messages.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <list>
#include <utility>

#include "comm/collective/message.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/shared_memory/operation.h"

namespace lockstep {
namespace {

// All pipes together need not be more than this, and one not more than the second-level cache
// holds.
constexpr std::size_t kAllPipes = std::size_t{8} << 20;
constexpr std::size_t kLargestPipe = std::size_t{256} << 10;
constexpr std::size_t kSmallestPipe = 256;

std::size_t capacity_for(int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  return std::clamp(std::bit_floor(kAllPipes / (ranks * ranks)), kSmallestPipe, kLargestPipe);
}

}  // namespace

/// A message that nobody has asked for yet.
struct SharedMemoryMessages::Letter {
  MessageHeader header;
  std::vector<std::byte> bytes;
  bool is_complete = false;
};

struct SharedMemoryMessages::Peer {
  Peer(int number, SharedMemoryPipe to, SharedMemoryPipe from)
      : rank(number), outgoing(to), incoming(from) {}

  int rank;
  SharedMemoryPipe outgoing;
  SharedMemoryPipe incoming;
  std::deque<Send*> sends;       // the first one owns the pipe
  std::list<Receive*> receives;  // that have no message yet, in the order of their calls
  std::list<Letter> kept;        // messages without a receive, in the order of arrival
  // The message that is coming out of the pipe.
  std::optional<MessageHeader> header;
  std::size_t done = 0;
  Receive* receiver = nullptr;  // null: it goes into the last of `kept`
};

class SharedMemoryMessages::Send final : public Operation {
 public:
  Send(SharedMemoryMessages& messages, std::shared_ptr<Peer> peer, at::Tensor tensor, int tag)
      : messages_(messages),
        peer_(std::move(peer)),
        tensor_(std::move(tensor)),
        header_(MessageHeader::of(tensor_, tag)) {
    peer_->sends.push_back(this);
  }
  ~Send() override { std::erase(peer_->sends, this); }

  bool try_start(bool) override { return true; }
  bool try_finish() override {
    if (peer_->sends.front() != this) return false;
    const auto head = std::as_bytes(std::span(&header_, 1));
    const auto body = bytes_of(tensor_);
    if (done_ < head.size()) done_ += peer_->outgoing.write(head.subspan(done_));
    if (done_ >= head.size()) {
      done_ += peer_->outgoing.write(std::span<const std::byte>(body).subspan(done_ - head.size()));
    }
    if (done_ < head.size() + body.size()) return false;
    peer_->sends.pop_front();
    return true;
  }
  void sleep(std::chrono::nanoseconds limit) override {
    peer_->outgoing.sleep_until_writable(limit);
  }
  void check_peers() override { messages_.check_peer(peer_->rank); }
  [[nodiscard]] std::string describe_missing() const override {
    return messages_.rounds_.describe(peer_->rank) + " does not receive; " + describe(header_) +
           " waits for it";
  }

 private:
  SharedMemoryMessages& messages_;
  std::shared_ptr<Peer> peer_;
  at::Tensor tensor_;
  MessageHeader header_;
  std::size_t done_ = 0;
};

class SharedMemoryMessages::Receive final : public Operation {
 public:
  Receive(SharedMemoryMessages& messages, std::shared_ptr<Peer> peer, at::Tensor tensor, int tag)
      : messages_(messages),
        peer_(std::move(peer)),
        tensor_(std::move(tensor)),
        expected_(MessageHeader::of(tensor_, tag)) {
    peer_->receives.push_back(this);
  }
  ~Receive() override { peer_->receives.remove(this); }

  bool try_start(bool) override { return true; }
  bool try_finish() override {
    if (!is_complete_) messages_.drain(*peer_);
    return is_complete_;
  }
  void sleep(std::chrono::nanoseconds limit) override {
    peer_->incoming.sleep_until_readable(bytes_needed(), limit);
  }
  void check_peers() override {
    if (has_news() || messages_.rounds_.can_still_come(peer_->rank)) return;
    // It may have sent, and gone, between the two looks.
    if (!has_news()) throw lost(messages_.rounds_, peer_->rank);
  }
  [[nodiscard]] std::string describe_missing() const override {
    return messages_.rounds_.describe(peer_->rank) + " has not sent " + describe(expected_);
  }

  /// Whether a message with this tag is for this receive. Throws if it does not fit.
  [[nodiscard]] bool wants(const MessageHeader& header) const {
    if (header.tag != expected_.tag) return false;
    check_message(header, expected_, peer_->rank);
    return true;
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_of(tensor_); }
  void complete() { is_complete_ = true; }
  void complete_with(const std::vector<std::byte>& letter) {
    if (!letter.empty()) std::memcpy(bytes().data(), letter.data(), letter.size());
    is_complete_ = true;
  }

 private:
  // A header in part is of no use yet.
  [[nodiscard]] std::size_t bytes_needed() const {
    return peer_->header ? 1 : sizeof(MessageHeader);
  }
  [[nodiscard]] bool has_news() const { return peer_->incoming.readable() >= bytes_needed(); }

  SharedMemoryMessages& messages_;
  std::shared_ptr<Peer> peer_;
  at::Tensor tensor_;
  MessageHeader expected_;
  bool is_complete_ = false;
};

std::size_t SharedMemoryMessages::bytes_needed(int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  return ranks * ranks * SharedMemoryPipe::bytes_needed(capacity_for(world_size));
}

SharedMemoryPipe SharedMemoryMessages::pipe(std::byte* memory, int from, int to) const {
  const std::size_t capacity = capacity_for(rounds_.world_size());
  const auto number = static_cast<std::size_t>(from * rounds_.world_size() + to);
  return {memory + number * SharedMemoryPipe::bytes_needed(capacity), capacity};
}

SharedMemoryMessages::SharedMemoryMessages(std::byte* memory, const SharedMemoryRounds& rounds)
    : rounds_(rounds) {
  for (int rank = 0; rank < rounds.world_size(); ++rank) {
    peers_.push_back(std::make_shared<Peer>(rank, pipe(memory, rounds.rank(), rank),
                                            pipe(memory, rank, rounds.rank())));
  }
}

SharedMemoryMessages::~SharedMemoryMessages() = default;

std::unique_ptr<Operation> SharedMemoryMessages::send(at::Tensor tensor, int to, int tag) {
  return std::make_unique<Send>(*this, peers_[static_cast<std::size_t>(to)], std::move(tensor),
                                tag);
}

std::unique_ptr<Operation> SharedMemoryMessages::receive(at::Tensor tensor, int from, int tag) {
  return std::make_unique<Receive>(*this, peers_[static_cast<std::size_t>(from)], std::move(tensor),
                                   tag);
}

void SharedMemoryMessages::check_peer(int peer) const {
  if (!rounds_.can_still_come(peer)) throw lost(rounds_, peer);
}

SharedMemoryMessages::Receive* SharedMemoryMessages::take_receive(Peer& peer,
                                                                  const MessageHeader& header) {
  const auto found = std::find_if(peer.receives.begin(), peer.receives.end(),
                                  [&](const Receive* receive) { return receive->wants(header); });
  if (found == peer.receives.end()) return nullptr;
  Receive* receive = *found;
  peer.receives.erase(found);
  return receive;
}

void SharedMemoryMessages::hand_over_kept(Peer& peer) {
  for (auto letter = peer.kept.begin(); letter != peer.kept.end();) {
    Receive* receive = letter->is_complete ? take_receive(peer, letter->header) : nullptr;
    if (receive != nullptr) receive->complete_with(letter->bytes);
    letter = receive != nullptr ? peer.kept.erase(letter) : std::next(letter);
  }
}

void SharedMemoryMessages::drain(Peer& peer) {
  while (true) {
    // First what came first: so a message never overtakes one of the same tag.
    hand_over_kept(peer);
    if (!peer.header && !begin_message(peer)) return;
    const auto target =
        peer.receiver != nullptr ? peer.receiver->bytes() : std::span(peer.kept.back().bytes);
    peer.done += peer.incoming.read(target.subspan(peer.done));
    if (peer.done < target.size()) return;
    peer.header.reset();
    if (peer.receiver == nullptr) {
      peer.kept.back().is_complete = true;
    } else {
      std::exchange(peer.receiver, nullptr)->complete();
    }
  }
}

bool SharedMemoryMessages::begin_message(Peer& peer) {
  // Where nobody receives, messages wait in the pipe, and at last their senders.
  if (peer.receives.empty() || peer.incoming.readable() < sizeof(MessageHeader)) return false;
  MessageHeader header;
  peer.incoming.read(std::as_writable_bytes(std::span(&header, 1)));
  peer.receiver = take_receive(peer, header);
  if (peer.receiver == nullptr) {
    peer.kept.push_back({header, std::vector<std::byte>(header.bytes), false});
  }
  peer.header = header;
  peer.done = 0;
  return true;
}

}  // namespace lockstep
