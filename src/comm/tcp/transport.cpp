// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/transport.h"

#include <cstring>
#include <utility>

#include "comm/collective/message.h"
#include "comm/collective/tensor_bytes.h"

namespace lockstep {
namespace {

// Reductions and broadcasts keep a chunk in scratch memory; other data comes to where it belongs.
constexpr std::size_t kStepBytes = std::size_t{4} << 20;
constexpr std::size_t kStreamBytes = std::size_t{64} << 20;
// How long what a rank sent before it ended may take to come: far longer than it takes between two
// hosts, far shorter than any deadline.
constexpr std::chrono::milliseconds kOvertaking{200};

static_assert(sizeof(MessageHeader) == sizeof(TcpMessageHeader));

class TcpAnnouncement final : public Announcement {
 public:
  TcpAnnouncement(TcpConnections& connections, std::uint64_t number, std::span<Fingerprint> all)
      : connections_(connections), number_(number), all_(all) {}

  bool is_done() override {
    if (is_done_) return true;
    TcpEngine& engine = connections_.engine();
    engine.poll();
    const auto held = engine.try_lock();
    if (!held.owns_lock() || !connections_.announcements().is_complete(number_)) return false;
    auto* next = all_.data();
    for (const auto& from : connections_.announcements().of(number_)) *next++ = from.fingerprint;
    connections_.announcements().forget(number_);
    return is_done_ = true;
  }
  bool has_come(int rank) override {
    const auto held = connections_.engine().lock();
    return is_done_ || connections_.announcements().has_come(number_, rank);
  }
  void check_peers() override {
    if (is_done_) return check_tcp_peers(connections_);
    check_tcp_announcement(connections_, number_);
  }
  std::string describe_missing() override {
    return is_done_ ? describe_tcp_slow(connections_) : describe_tcp_missing(connections_, number_);
  }

 private:
  TcpConnections& connections_;
  std::uint64_t number_;
  std::span<Fingerprint> all_;
  bool is_done_ = false;
};

/// The transfers of one step of a collective.
class TcpExchangeTask final : public TcpTask {
 public:
  using TcpTask::expect;
  using TcpTask::finish_one;
};

class TcpRequest final : public TransportRequest {
 public:
  TcpRequest(TcpEngine& engine, std::shared_ptr<TcpTask> task)
      : engine_(engine), task_(std::move(task)) {}
  bool is_done() override {
    if (!task_->is_done()) engine_.poll();
    return task_->is_done();
  }

 private:
  TcpEngine& engine_;
  std::shared_ptr<TcpTask> task_;
};

class TcpMessageRequest final : public TransportRequest {
 public:
  TcpMessageRequest(TcpEngine& engine, std::shared_ptr<TcpMessage> message)
      : engine_(engine), message_(std::move(message)) {}

  void expect(const MessageHeader& header, int from) {
    expected_ = header;
    from_ = from;
  }

  bool is_done() override {
    if (!message_->is_done.load(std::memory_order_acquire)) engine_.poll();
    if (from_ >= 0 && message_->has_header.load(std::memory_order_acquire)) {
      MessageHeader header;
      std::memcpy(&header, message_->header.data(), sizeof(header));
      check_message(header, expected_, std::exchange(from_, -1));
    }
    return message_->is_done.load(std::memory_order_acquire);
  }

 private:
  TcpEngine& engine_;
  std::shared_ptr<TcpMessage> message_;
  MessageHeader expected_;
  int from_ = -1;  // of a message whose header has not been looked at
};

std::shared_ptr<TcpMessage> tcp_message_of(TcpEngine& engine, const at::Tensor& tensor) {
  auto message = std::make_shared<TcpMessage>();
  message->bytes = bytes_of(tensor);
  engine.begin_background();
  message->on_done = [&engine] { engine.end_background(); };
  return message;
}

OperationFailure tcp_loss(const std::string& text) {
  return {
      OperationFailure::Kind::PeerLost, text,
      "look at what that rank reported first; if it reported nothing, its process was killed or "
      "its host cannot be reached"};
}

}  // namespace

TcpTransport::TcpTransport(TcpConnections& connections)
    : Transport(connections.rank(), connections.world_size(), {kStepBytes, kStreamBytes}),
      connections_(connections) {}

std::unique_ptr<Announcement> TcpTransport::announce(const Fingerprint& own,
                                                     std::span<Fingerprint> all) {
  const auto held = connections_.engine().lock();
  return std::make_unique<TcpAnnouncement>(connections_, connections_.announce(own, {}), all);
}

std::unique_ptr<TransportRequest> TcpTransport::exchange(const Exchange& exchange) {
  TcpEngine& engine = connections_.engine();
  auto held = engine.lock();
  const auto task = std::make_shared<TcpExchangeTask>();
  connections_.move_in_background(*task);
  const auto done = [task] { task->finish_one(); };
  task->expect(1);
  for (std::size_t peer = 0; peer < static_cast<std::size_t>(world_size()); ++peer) {
    const int number = static_cast<int>(peer);
    if (number == rank()) continue;
    TcpStream& stream = connections_.stream(number, TcpChannel::Exchange);
    if (peer < exchange.receives.size() && !exchange.receives[peer].empty()) {
      task->expect(1);
      stream.receive(exchange.receives[peer], done);
    }
    if (peer < exchange.sends.size() && !exchange.sends[peer].empty()) {
      task->expect(1);
      stream.send(exchange.sends[peer], done);
    }
  }
  if (!exchange.sends.empty() && !exchange.receives.empty()) exchange.copy_own(rank());
  task->finish_one();
  engine.hand_over(held);
  return std::make_unique<TcpRequest>(engine, task);
}

std::unique_ptr<TransportRequest> TcpTransport::send(const at::Tensor& tensor,
                                                     const MessageHeader& header, int to) {
  TcpEngine& engine = connections_.engine();
  auto held = engine.lock();
  auto message = tcp_message_of(engine, tensor);
  std::memcpy(message->header.data(), &header, sizeof(header));
  connections_.mailbox().send(to, header.tag, message);
  engine.hand_over(held);
  return std::make_unique<TcpMessageRequest>(engine, std::move(message));
}

std::unique_ptr<TransportRequest> TcpTransport::receive(const at::Tensor& tensor,
                                                        const MessageHeader& expected, int from) {
  TcpEngine& engine = connections_.engine();
  auto held = engine.lock();
  auto message = tcp_message_of(engine, tensor);
  connections_.mailbox().receive(from, expected.tag, message);
  engine.hand_over(held);
  auto request = std::make_unique<TcpMessageRequest>(engine, std::move(message));
  request->expect(expected, from);
  return request;
}

void TcpTransport::sleep(std::chrono::nanoseconds limit, Backoff& backoff) {
  if (backoff.polls()) return backoff.sleep(limit);
  connections_.engine().wait(limit);
}

void TcpTransport::check_peers() {
  check_tcp_peers(connections_);
}

std::optional<int> TcpTransport::awaited() {
  const auto held = connections_.engine().lock();
  return connections_.awaited();
}

void TcpTransport::announce_abort(const std::string& reason) noexcept {
  connections_.announce_abort(reason);
}

void check_tcp_peers(TcpConnections& connections) {
  connections.engine().poll();
  const auto held = connections.engine().lock();
  const auto& loss = connections.find_loss();
  if (!loss || std::chrono::steady_clock::now() - loss->since < kOvertaking) return;
  throw tcp_loss(loss->text);
}

void check_tcp_announcement(TcpConnections& connections, std::uint64_t number) {
  check_tcp_peers(connections);
  const auto held = connections.engine().lock();
  for (int rank = 0; rank < connections.world_size(); ++rank) {
    if (!connections.announcements().has_come(number, rank) && connections.has_left(rank)) {
      throw tcp_loss(connections.name_of(rank) + " has closed the group");
    }
  }
}

std::string describe_tcp_slow(TcpConnections& connections) {
  const auto held = connections.engine().lock();
  const std::string text = connections.describe_slow();
  return text.empty() ? "all ranks are there, but the data of one does not come" : text;
}

std::string describe_tcp_missing(TcpConnections& connections, std::uint64_t number) {
  auto held = connections.engine().lock();
  std::string text;
  for (int rank = 0; rank < connections.world_size(); ++rank) {
    if (connections.announcements().has_come(number, rank)) continue;
    text += (text.empty() ? "" : ", ") + connections.name_of(rank) + " has not arrived";
  }
  held.unlock();
  return text.empty() ? describe_tcp_slow(connections) : text;
}

}  // namespace lockstep
