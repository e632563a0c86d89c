// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/mailbox.h"

#include <algorithm>

namespace lockstep {
namespace {

// What a receiver that is late has to keep, for each message.
constexpr std::size_t kShortBytes = std::size_t{16} << 10;

void finish(TcpMessage& message) {
  message.is_done.store(true, std::memory_order_release);
  if (message.on_done) message.on_done();
}

}  // namespace

void TcpMailbox::send(int to, int tag, std::shared_ptr<TcpMessage> message) {
  if (is_abandoned_) return;
  Head head{.header = message->header, .bytes = message->bytes.size(), .tag = tag};
  if (to == rank_) {
    Lane& lane = lanes_[{to, tag}];
    lane.come.push_back({head, {}, std::move(message)});
    match(to, lane);
    return;
  }
  if (message->bytes.size() <= kShortBytes) {
    head.is_short = 1;
    wire_.send_head(to, head, message->bytes);
    finish(*message);
    return;
  }
  head.id = next_id_++;
  // The question may come while the head is still being sent.
  sent_[head.id] = std::move(message);
  wire_.send_head(to, head, {});
}

void TcpMailbox::take_question(int from, std::uint64_t id) {
  const auto found = sent_.extract(id);
  if (found.empty()) return;
  const auto& message = found.mapped();
  streams_[static_cast<std::size_t>(from)]->send(message->bytes, [message] { finish(*message); });
}

void TcpMailbox::receive(int from, int tag, std::shared_ptr<TcpMessage> message) {
  if (is_abandoned_) return;
  Lane& lane = lanes_[{from, tag}];
  lane.wanted.push_back(std::move(message));
  match(from, lane);
}

void TcpMailbox::take_head(int from, const Head& head, std::span<const std::byte> bytes) {
  if (is_abandoned_) return;
  Lane& lane = lanes_[{from, head.tag}];
  lane.come.push_back({head, {bytes.begin(), bytes.end()}, nullptr});
  match(from, lane);
}

void TcpMailbox::abandon() {
  is_abandoned_ = true;
  lanes_.clear();
  sent_.clear();
}

void TcpMailbox::match(int from, Lane& lane) {
  while (!lane.come.empty() && !lane.wanted.empty()) {
    const auto message = std::move(lane.wanted.front());
    lane.wanted.pop_front();
    Waiting waiting = std::move(lane.come.front());
    lane.come.pop_front();
    deliver(from, std::move(waiting), message);
  }
}

void TcpMailbox::deliver(int from, Waiting waiting, const std::shared_ptr<TcpMessage>& message) {
  message->header = waiting.head.header;
  message->has_header.store(true, std::memory_order_release);
  // Two sizes are an error, which the header shows. The bytes stay where they are.
  if (waiting.head.bytes != message->bytes.size()) return;
  if (waiting.own) {
    std::copy(waiting.own->bytes.begin(), waiting.own->bytes.end(), message->bytes.begin());
    finish(*waiting.own);
    finish(*message);
  } else if (waiting.head.is_short != 0) {
    std::copy(waiting.bytes.begin(), waiting.bytes.end(), message->bytes.begin());
    finish(*message);
  } else {
    streams_[static_cast<std::size_t>(from)]->receive(message->bytes,
                                                      [message] { finish(*message); });
    wire_.ask(from, waiting.head.id);
  }
}

}  // namespace lockstep
