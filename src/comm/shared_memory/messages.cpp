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

// The limit of all buffers together; one is no larger than the second-level cache.
constexpr std::size_t kAllBuffers = std::size_t{8} << 20;
constexpr std::size_t kLargestBuffer = std::size_t{256} << 10;
constexpr std::size_t kSmallestBuffer = 256;

std::size_t capacity_for(int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  return std::clamp(std::bit_floor(kAllBuffers / (ranks * ranks)), kSmallestBuffer, kLargestBuffer);
}

}  // namespace

/// A message that came before its receive was called.
struct SharedMemoryMessages::UnexpectedMessage {
  MessageHeader header;
  std::vector<std::byte> bytes;
  bool is_complete = false;
};

struct SharedMemoryMessages::Peer {
  Peer(int number, RingBuffer to, RingBuffer from) : rank(number), outgoing(to), incoming(from) {}

  int rank;
  RingBuffer outgoing;
  RingBuffer incoming;
  std::deque<Send*> sends;                  // the first one writes to `outgoing`
  std::list<Receive*> receives;             // without a message so far, in the order of their calls
  std::list<UnexpectedMessage> unexpected;  // without a receive so far, in the order of arrival
  // The message that is being read out of `incoming`.
  std::optional<MessageHeader> header;
  std::size_t done = 0;
  Receive* receiver = nullptr;  // null: it goes into the last of `unexpected`
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
    return messages_.counters_.describe(peer_->rank) + " does not receive; " + describe(header_) +
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
    if (has_news() || messages_.counters_.can_still_come(peer_->rank)) return;
    // It may have sent, and gone, between the two looks.
    if (!has_news()) throw lost(messages_.counters_, peer_->rank);
  }
  [[nodiscard]] std::string describe_missing() const override {
    return messages_.counters_.describe(peer_->rank) + " has not sent " + describe(expected_);
  }

  /// Whether a message with this tag is for this receive. Throws if it does not fit.
  [[nodiscard]] bool wants(const MessageHeader& header) const {
    if (header.tag != expected_.tag) return false;
    check_message(header, expected_, messages_.counters_.name_of(peer_->rank));
    return true;
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_of(tensor_); }
  void complete() { is_complete_ = true; }
  void complete_with(const std::vector<std::byte>& message) {
    if (!message.empty()) std::memcpy(bytes().data(), message.data(), message.size());
    is_complete_ = true;
  }

 private:
  // Part of a header is of no use yet.
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
  return ranks * ranks * RingBuffer::bytes_needed(capacity_for(world_size));
}

RingBuffer SharedMemoryMessages::buffer(std::byte* memory, int from, int to) const {
  const std::size_t capacity = capacity_for(counters_.world_size());
  const auto number = static_cast<std::size_t>(from * counters_.world_size() + to);
  return {memory + number * RingBuffer::bytes_needed(capacity), capacity};
}

SharedMemoryMessages::SharedMemoryMessages(std::byte* memory, const SharedMemoryCounters& counters)
    : counters_(counters) {
  for (int rank = 0; rank < counters.world_size(); ++rank) {
    peers_.push_back(std::make_shared<Peer>(rank, buffer(memory, counters.rank(), rank),
                                            buffer(memory, rank, counters.rank())));
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
  if (!counters_.can_still_come(peer)) throw lost(counters_, peer);
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

void SharedMemoryMessages::deliver_unexpected(Peer& peer) {
  for (auto message = peer.unexpected.begin(); message != peer.unexpected.end();) {
    Receive* receive = message->is_complete ? take_receive(peer, message->header) : nullptr;
    if (receive != nullptr) receive->complete_with(message->bytes);
    message = receive != nullptr ? peer.unexpected.erase(message) : std::next(message);
  }
}

void SharedMemoryMessages::drain(Peer& peer) {
  while (true) {
    // First what came first: so a message never overtakes one of the same tag.
    deliver_unexpected(peer);
    if (!peer.header && !begin_message(peer)) return;
    const auto target =
        peer.receiver != nullptr ? peer.receiver->bytes() : std::span(peer.unexpected.back().bytes);
    peer.done += peer.incoming.read(target.subspan(peer.done));
    if (peer.done < target.size()) return;
    peer.header.reset();
    if (peer.receiver == nullptr) {
      peer.unexpected.back().is_complete = true;
    } else {
      std::exchange(peer.receiver, nullptr)->complete();
    }
  }
}

bool SharedMemoryMessages::begin_message(Peer& peer) {
  // Without a receive, messages wait in the ring buffer; when it is full, their senders wait.
  if (peer.receives.empty() || peer.incoming.readable() < sizeof(MessageHeader)) return false;
  MessageHeader header;
  peer.incoming.read(std::as_writable_bytes(std::span(&header, 1)));
  peer.receiver = take_receive(peer, header);
  if (peer.receiver == nullptr) {
    peer.unexpected.push_back({header, std::vector<std::byte>(header.bytes), false});
  }
  peer.header = header;
  peer.done = 0;
  return true;
}

}  // namespace lockstep
