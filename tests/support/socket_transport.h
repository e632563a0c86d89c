// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/transport.h"

// The smallest transport: ranks are threads, each pair of them has a pair of sockets, and all that
// comes is kept in memory until somebody asks for it.
namespace lockstep::testing {

using Bytes = std::vector<std::byte>;

/// One end of a stream of frames.
class FrameSocket {
 public:
  enum class Kind : std::uint32_t { Announcement, Exchange, Message, Abort };
  struct Header {
    Kind kind;
    std::uint32_t tag;
    std::uint64_t bytes;
  };

  using Parts = std::initializer_list<std::span<const std::byte>>;

  explicit FrameSocket(int socket) : socket_(socket) {}
  FrameSocket(FrameSocket&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)) {}  // before its first frame
  ~FrameSocket() {
    if (socket_ >= 0) ::close(socket_);
  }

  /// Returns where in the stream its end is.
  std::uint64_t put(Kind kind, std::uint32_t tag, Parts parts) {
    Header header{kind, tag, 0};
    for (const auto& part : parts) header.bytes += part.size();
    append(out_, std::as_bytes(std::span(&header, 1)));
    for (const auto& part : parts) append(out_, part);
    return sent_ + out_.size();
  }
  [[nodiscard]] bool has_sent(std::uint64_t end) const { return sent_ >= end; }
  [[nodiscard]] bool take(Kind kind, std::uint32_t tag, Bytes& frame) {
    auto& frames = frames_[{kind, tag}];
    if (frames.empty()) return false;
    frame = std::move(frames.front());
    frames.pop_front();
    return true;
  }

  void progress() {
    if (socket_ < 0) return out_.clear();
    write_some();
    read_some();
  }

 private:
  static void append(Bytes& bytes, std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  static bool is_for_later(const char* call) {
    // Whoever has gone has said so.
    if (errno == EAGAIN || errno == EINTR || errno == EPIPE || errno == ECONNRESET) return true;
    throw std::runtime_error(std::string(call) + ": " + std::strerror(errno));
  }

  void write_some() {
    std::size_t written = 0;
    while (written < out_.size()) {
      const auto count = ::send(socket_, out_.data() + written, out_.size() - written,
                                MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0 && is_for_later("send")) break;
      written += static_cast<std::size_t>(count);
    }
    out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(written));
    sent_ += written;
  }

  void read_some() {
    std::array<std::byte, std::size_t{1} << 14> piece;
    while (true) {
      const auto count = ::recv(socket_, piece.data(), piece.size(), MSG_DONTWAIT);
      if (count < 0 && is_for_later("recv")) break;
      if (count == 0) break;
      append(in_, std::span(piece).first(static_cast<std::size_t>(count)));
    }
    std::size_t start = 0;
    Header header;
    while (in_.size() - start >= sizeof(header)) {
      std::memcpy(&header, in_.data() + start, sizeof(header));
      if (in_.size() - start - sizeof(header) < header.bytes) break;
      start += sizeof(header);
      const auto frame = std::span(in_).subspan(start, header.bytes);
      frames_[{header.kind, header.tag}].emplace_back(frame.begin(), frame.end());
      start += header.bytes;
    }
    in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(start));
  }

  int socket_;  // -1: to this rank itself
  Bytes out_, in_;
  std::uint64_t sent_ = 0;
  std::map<std::pair<Kind, std::uint32_t>, std::deque<Bytes>> frames_;
};

/// This rank's sockets to all others. The first rank of a job that comes makes those of all.
inline std::vector<FrameSocket> meet_sockets(const std::string& job, int rank, int world_size) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, int, int>, int> waiting;  // job, from, to
  const std::lock_guard lock(mutex);
  std::vector<FrameSocket> sockets;
  for (int peer = 0; peer < world_size; ++peer) {
    if (peer == rank) {
      sockets.emplace_back(-1);
      continue;
    }
    auto own = waiting.extract({job, rank, peer});
    int ends[2]{};
    if (!own.empty()) {
      ends[0] = own.mapped();
    } else if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0) {
      // So little that a send often has to go on in a later call.
      const int bytes = 1 << 16;
      for (const int end : ends) ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
      waiting[{job, peer, rank}] = ends[1];
    } else {
      throw std::runtime_error("socketpair");
    }
    sockets.emplace_back(ends[0]);
  }
  return sockets;
}

class SocketTransport : public Transport {
 public:
  using Kind = FrameSocket::Kind;
  SocketTransport(const std::string& job, int rank, int world_size)
      : Transport(rank, world_size, {std::size_t{1} << 20, std::size_t{1} << 20}),
        sockets_(meet_sockets(job, rank, world_size)) {}

  std::unique_ptr<Announcement> announce(const Fingerprint& own,
                                         std::span<Fingerprint> all) override {
    all[static_cast<std::size_t>(rank())] = own;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer != rank())
        put(peer, Kind::Announcement, announced_, {std::as_bytes(std::span(&own, 1))});
    }
    return std::make_unique<SocketAnnouncement>(*this, all, announced_++);
  }
  std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) override {
    exchange.copy_own(rank());
    std::vector<std::pair<int, std::span<std::byte>>> missing;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank()) continue;
      const auto index = static_cast<std::size_t>(peer);
      if (!exchange.sends[index].empty()) put(peer, Kind::Exchange, 0, {exchange.sends[index]});
      if (!exchange.receives[index].empty()) missing.emplace_back(peer, exchange.receives[index]);
    }
    return request([this, missing = std::move(missing)]() mutable {
      std::erase_if(missing, [this](const auto& one) {
        Bytes frame;
        if (!take(one.first, Kind::Exchange, 0, frame)) return false;
        if (frame.size() != one.second.size()) throw std::runtime_error("another length");
        std::copy(frame.begin(), frame.end(), one.second.begin());
        return true;
      });
      return missing.empty();
    });
  }
  std::unique_ptr<TransportRequest> send(const at::Tensor& tensor, const MessageHeader& header,
                                         int to) override {
    const auto end = put(to, Kind::Message, static_cast<std::uint32_t>(header.tag),
                         {std::as_bytes(std::span(&header, 1)), bytes_of(tensor)});
    return request([this, to, end] { return socket_to(to).has_sent(end); });
  }
  std::unique_ptr<TransportRequest> receive(const at::Tensor& tensor, const MessageHeader& expected,
                                            int from) override {
    const auto tag = static_cast<std::uint32_t>(expected.tag);
    // Receives of one tag get their messages in the order of the calls, whichever is asked first.
    auto& [called, served] = receives_[{from, tag}];
    return request([=, this, &served = served, place = called++, has_come = false]() mutable {
      Bytes frame;
      if (has_come || served != place || !take(from, Kind::Message, tag, frame)) return has_come;
      ++served;
      MessageHeader header;
      std::memcpy(&header, frame.data(), sizeof(header));
      check_message(header, expected, from);
      std::copy(frame.begin() + sizeof(header), frame.end(), bytes_of(tensor).begin());
      return has_come = true;
    });
  }
  void check_peers() override {
    progress();
    Bytes reason;
    for (int peer = 0; peer < world_size() && word_.empty(); ++peer) {
      if (!take(peer, Kind::Abort, 0, reason)) continue;
      word_ = "rank " + std::to_string(peer) + " gave up: " +
              std::string(reinterpret_cast<const char*>(reason.data()), reason.size());
    }
    if (!word_.empty()) throw OperationFailure{OperationFailure::Kind::PeerLost, word_, ""};
  }

  void announce_abort(const std::string& reason) noexcept override {
    try {
      const auto text = std::as_bytes(std::span(reason));
      for (FrameSocket& socket : sockets_) socket.put(Kind::Abort, 0, {text});
      progress();
    } catch (const std::exception&) {  // then nobody hears of it
    }
  }

 private:
  class SocketRequest final : public TransportRequest {
   public:
    SocketRequest(SocketTransport& transport, std::function<bool()> poll)
        : transport_(transport), poll_(std::move(poll)) {}
    bool is_done() override {
      transport_.progress();
      return poll_();
    }

   private:
    SocketTransport& transport_;
    std::function<bool()> poll_;
  };

  class SocketAnnouncement final : public Announcement {
   public:
    SocketAnnouncement(SocketTransport& transport, std::span<Fingerprint> all, std::uint32_t number)
        : transport_(transport), all_(all), number_(number), has_come_(all.size()) {
      has_come_[static_cast<std::size_t>(transport.rank())] = true;
    }
    bool is_done() override {
      transport_.progress();
      return describe_missing().empty();
    }
    bool has_come(int rank) override {
      const auto index = static_cast<std::size_t>(rank);
      Bytes frame;
      if (!has_come_[index] && transport_.take(rank, Kind::Announcement, number_, frame)) {
        std::memcpy(&all_[index], frame.data(), sizeof(Fingerprint));
        has_come_[index] = true;
      }
      return has_come_[index];
    }
    void check_peers() override { transport_.check_peers(); }
    std::string describe_missing() override {
      std::string text;
      for (int peer = 0; peer < transport_.world_size(); ++peer) {
        if (!has_come(peer)) text += "rank " + std::to_string(peer) + " has not arrived; ";
      }
      return text;
    }

   private:
    SocketTransport& transport_;
    std::span<Fingerprint> all_;
    std::uint32_t number_;
    std::vector<bool> has_come_;
  };

  std::unique_ptr<TransportRequest> request(std::function<bool()> poll) {
    progress();
    return std::make_unique<SocketRequest>(*this, std::move(poll));
  }
  FrameSocket& socket_to(int peer) { return sockets_[static_cast<std::size_t>(peer)]; }
  std::uint64_t put(int peer, Kind kind, std::uint32_t tag, FrameSocket::Parts parts) {
    return socket_to(peer).put(kind, tag, parts);
  }
  bool take(int peer, Kind kind, std::uint32_t tag, Bytes& frame) {
    return socket_to(peer).take(kind, tag, frame);
  }
  void progress() {
    for (FrameSocket& socket : sockets_) socket.progress();
  }

  std::vector<FrameSocket> sockets_;
  std::uint32_t announced_ = 0;
  std::string word_;  // of the first rank that gave up
  std::map<std::pair<int, std::uint32_t>, std::pair<int, int>> receives_;  // called, served
};

}  // namespace lockstep::testing
