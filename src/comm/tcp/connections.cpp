// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/connections.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "concurrency/deadline.h"

namespace lockstep {
namespace {

// No frame is longer; another number means that the connection carries something else.
constexpr std::size_t kMaxFrameBytes = std::size_t{1} << 20;

constexpr const char* kNoFrame = " sent something that is no frame of this group";

template <typename T>
std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <typename T>
T value_of(std::span<const std::byte> bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

/// Whether the bytes of the message are all in the frame, or none.
bool does_fit(const TcpMailbox::Head& head, std::size_t bytes) {
  return bytes == (head.is_short != 0 ? head.bytes : 0);
}

}  // namespace

TcpConnections::TcpConnections(int rank, std::vector<TcpSockets> sockets,
                               std::vector<std::string> names, bool has_thread)
    : rank_(rank), peers_(sockets.size()), announcements_(rank, static_cast<int>(sockets.size())) {
  std::vector<OwnerReductions::Links> links(sockets.size());
  std::vector<TcpStream*> messages(sockets.size());
  for (std::size_t peer = 0; peer < sockets.size(); ++peer) {
    Peer& entry = peers_[peer];
    entry.name = std::move(names[peer]);
    if (!is_other(peer)) continue;
    for (auto& socket : sockets[peer]) {
      entry.streams.push_back(
          std::make_unique<TcpStream>(std::move(socket), static_cast<int>(peer), engine_.ready()));
      engine_.watch(*entry.streams.back());
    }
    links[peer] = {&stream(static_cast<int>(peer), TcpChannel::Contributions),
                   &stream(static_cast<int>(peer), TcpChannel::Results)};
    messages[peer] = &stream(static_cast<int>(peer), TcpChannel::Messages);
  }
  mailbox_ = std::make_unique<TcpMailbox>(
      rank, std::move(messages),
      TcpMailbox::Wire{
          .send_head =
              [this](int peer, const TcpMailbox::Head& head, std::span<const std::byte> bytes) {
                send_frame(peer, make_frame(FrameKind::MessageHead, 0, bytes_of_value(head),
                                            std::span(&bytes, 1)));
              },
          .ask =
              [this](int peer, std::uint64_t id) {
                send_frame(peer, make_frame(FrameKind::Question, id, {}));
              }});
  reductions_ = std::make_unique<OwnerReductions>(
      rank, std::move(links), announcements_, [this](TcpTask& task) { move_in_background(task); });
  set_sizes(TcpSizes::usual(world_size()));
  for (int peer = 0; peer < world_size(); ++peer) {
    if (peer != rank_) receive_frame(peer);
  }
  if (has_thread) engine_.start_thread();
}

TcpConnections::~TcpConnections() {
  if (owner_.is_current()) engine_.stop();
}

void TcpConnections::set_sizes(const TcpSizes& sizes) {
  const TcpEngine::Lock held = engine_.lock();
  sizes_ = sizes;
  reductions_->set_piece_bytes(sizes.piece_bytes);
}

void TcpConnections::move_in_background(TcpTask& task) {
  engine_.begin_background();
  task.when_done([this] { engine_.end_background(); });
}

void TcpConnections::start(const std::shared_ptr<TcpChainReduction>& chain) {
  std::erase_if(chains_, [](const auto& one) { return one->is_done(); });
  chains_.push_back(chain);
  move_in_background(*chain);
  chain->start();
}

std::uint64_t TcpConnections::announce(const Fingerprint& own, FrameParts values) {
  const std::uint64_t number = announcements_.add_own(own);
  send_to_all(make_frame(FrameKind::Announcement, number, bytes_of_value(own), values));
  return number;
}

TcpConnections::SharedFrame TcpConnections::make_frame(FrameKind kind, std::uint64_t number,
                                                       std::span<const std::byte> first,
                                                       FrameParts others) {
  Frame frame{kind, static_cast<std::uint32_t>(first.size()), number};
  for (const auto& part : others) frame.bytes += static_cast<std::uint32_t>(part.size());
  auto bytes = std::make_shared<std::vector<std::byte>>();
  bytes->reserve(sizeof(frame) + frame.bytes);
  const auto add = [&](std::span<const std::byte> part) {
    bytes->insert(bytes->end(), part.begin(), part.end());
  };
  add(bytes_of_value(frame));
  add(first);
  for (const auto& part : others) add(part);
  return bytes;
}

void TcpConnections::send_to_all(const SharedFrame& frame) {
  for (int peer = 0; peer < world_size(); ++peer) {
    if (peer != rank_) send_frame(peer, frame);
  }
}

void TcpConnections::send_frame(int rank, const SharedFrame& frame) {
  TcpStream& control = stream(rank, TcpChannel::Control);
  // What the kernel does not take at once goes on while the program computes.
  engine_.begin_background();
  control.send(*frame, [this, frame] { engine_.end_background(); });
  // At once: the other rank may wait for nothing else. This may run inside a callback of the same
  // stream, so that nothing is read here.
  control.flush();
}

void TcpConnections::receive_frame(int rank) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  TcpStream& control = stream(rank, TcpChannel::Control);
  control.receive(std::as_writable_bytes(std::span(&peer.frame, 1)), [this, rank, &peer, &control] {
    if (peer.frame.bytes > kMaxFrameBytes) {
      return lose(rank, peer.name + kNoFrame);
    }
    peer.body.resize(peer.frame.bytes);
    if (peer.body.empty()) return take_frame(rank);
    control.receive(peer.body, [this, rank] { take_frame(rank); });
  });
}

void TcpConnections::take_frame(int rank) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  const std::span<const std::byte> body = peer.body;
  const auto refuse = [&] { lose(rank, peer.name + kNoFrame); };
  switch (peer.frame.kind) {
    case FrameKind::Announcement:
      if (!announcements_.add(peer.frame.number, rank, std::exchange(peer.body, {}))) {
        return refuse();
      }
      reductions_->note_announcement(rank);
      break;
    case FrameKind::MessageHead: {
      if (body.size() < sizeof(TcpMailbox::Head)) return refuse();
      const auto head = value_of<TcpMailbox::Head>(body);
      const auto bytes = body.subspan(sizeof(head));
      if (!does_fit(head, bytes.size())) return refuse();
      mailbox_->take_head(rank, head, bytes);
      break;
    }
    case FrameKind::Question:
      mailbox_->take_question(rank, peer.frame.number);
      break;
    case FrameKind::Abort:
      lose(rank,
           peer.name +
               " gave up: " + std::string(reinterpret_cast<const char*>(body.data()), body.size()),
           true);
      break;
    case FrameKind::Goodbye:
      peer.has_left = true;
      break;
    default:
      return refuse();
  }
  receive_frame(rank);
}

void TcpConnections::lose(int rank, std::string text, bool is_its_word) {
  if (!loss_) {
    loss_ = Loss{rank, std::move(text), is_its_word, std::chrono::steady_clock::now()};
  } else if (is_its_word && loss_->rank == rank && !loss_->is_its_word) {
    // Another of its connections ended before its reason had come.
    loss_->text = std::move(text);
    loss_->is_its_word = true;
  }
}

const std::optional<TcpConnections::Loss>& TcpConnections::find_loss() {
  for (const Peer& peer : peers_) {
    // After an abort, the connections have ended on this side.
    if (loss_ || has_aborted_ || peer.has_left) continue;
    for (const auto& stream : peer.streams) {
      if (stream->end_text().empty()) continue;
      lose(stream->peer(), peer.name + " is gone (" + stream->end_text() + ")");
      break;
    }
  }
  return loss_;
}

std::optional<int> TcpConnections::awaited() const {
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    if (!is_other(peer)) continue;
    for (const auto channel :
         {TcpChannel::Exchange, TcpChannel::Contributions, TcpChannel::Results}) {
      const auto& stream = *peers_[peer].streams[static_cast<std::size_t>(channel)];
      if (stream.has_unreceived()) return static_cast<int>(peer);
    }
  }
  return std::nullopt;
}

std::string TcpConnections::describe_slow() const {
  std::string text;
  for (const Peer& peer : peers_) {
    const bool is_awaited =
        std::any_of(peer.streams.begin() + (peer.streams.empty() ? 0 : 1), peer.streams.end(),
                    [](const auto& stream) { return stream->has_unreceived(); });
    const bool is_slow = std::any_of(peer.streams.begin(), peer.streams.end(),
                                     [](const auto& stream) { return stream->has_unsent(); });
    if (!is_awaited && !is_slow) continue;
    text += (text.empty() ? "" : "; ") + peer.name +
            (is_awaited ? " has announced the call, but its data does not come"
                        : " does not take this rank's data");
  }
  return text;
}

void TcpConnections::announce_abort(const std::string& reason) noexcept {
  if (!owner_.is_current()) return;
  try {
    TcpEngine::Lock held = engine_.lock();
    if (std::exchange(has_aborted_, true)) return;
    const auto text = std::as_bytes(std::span(reason))
                          .first(std::min<std::size_t>(reason.size(), kMaxFrameBytes));
    for (const Peer& peer : peers_) {
      for (std::size_t channel = 1; channel < peer.streams.size(); ++channel) {
        peer.streams[channel]->abandon();
      }
    }
    // Short messages come over the control connections, which stay.
    mailbox_->abandon();
    send_to_all(make_frame(FrameKind::Abort, 0, text));
  } catch (const std::exception&) {  // then the closed connections tell them
  }
}

bool TcpConnections::have_all_left() {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) {
    return peer.streams.empty() || peer.has_left || !peer.streams.front()->end_text().empty();
  });
}

void TcpConnections::close(std::chrono::milliseconds limit) {
  const Deadline deadline = Deadline::after(limit);
  {
    TcpEngine::Lock held = engine_.lock();
    send_to_all(make_frame(FrameKind::Goodbye, 0, {}));
  }
  // Who closes a connection in which something lies unread destroys what it has sent itself.
  while (true) {
    {
      const TcpEngine::Lock held = engine_.lock();
      const bool is_sent = std::none_of(peers_.begin(), peers_.end(), [](const Peer& peer) {
        return !peer.streams.empty() && peer.streams.front()->has_unsent() &&
               peer.streams.front()->end_text().empty();
      });
      if ((have_all_left() && is_sent) || deadline.has_passed()) break;
    }
    engine_.wait(deadline.remaining());
  }
  engine_.stop();
}

}  // namespace lockstep
