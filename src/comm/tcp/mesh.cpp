// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/mesh.h"

#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

namespace lockstep {
namespace {

constexpr std::uint64_t kMagic = 0x4c53'7463'7030'3032;  // changes with the protocol
// An address that drops packets costs so much in the first round over all addresses of a rank. In
// each later round, a slow network or a busy host has twice as long. The kernel repeats a first
// packet that was lost after a second.
constexpr std::chrono::milliseconds kFirstAddressLimit{1200};
constexpr std::chrono::seconds kAddressLimit{3};
// A rank that is connected to may first connect to others itself.
constexpr std::chrono::seconds kAnswerLimit{3};
// Whoever connects and says nothing, such as a port scanner, does not hold up the ranks.
constexpr std::chrono::seconds kHelloLimit{2};
// Between two rounds over all addresses of a rank that refuse at once.
constexpr std::chrono::milliseconds kRoundPause{50};

struct Hello {
  std::uint64_t magic = kMagic;
  std::array<std::uint64_t, 2> secret{};
  std::uint32_t from = 0;
  std::uint32_t to = 0;
  std::uint32_t channel = 0;
  std::uint32_t unused = 0;
};

/// The answer of the rank that is connected to, and then the other one's confirmation. A rank that
/// accepts may be so late that the other one has given the connection up, and makes another one.
struct Answer {
  std::uint64_t magic = kMagic;
  std::uint64_t rank = 0;
};

bool is_wanted(const native::InterfaceAddress& candidate, std::string_view interfaces) {
  const auto& address = candidate.address;
  // Addresses that mean something on one link only.
  if (address.family == AF_INET6 && address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80) {
    return false;
  }
  if (interfaces.empty()) return true;
  while (!interfaces.empty()) {
    const auto end = std::min(interfaces.find(','), interfaces.size());
    const auto name = interfaces.substr(0, end);
    if (!name.empty() && candidate.interface.starts_with(name)) return true;
    interfaces.remove_prefix(std::min(end + 1, interfaces.size()));
  }
  return false;
}

Deadline sooner(const Deadline& deadline, std::chrono::nanoseconds limit) {
  return Deadline::after(std::min(deadline.remaining(), limit));
}

std::string name_of(std::span<const TcpContact> all, int rank) {
  return "rank " + std::to_string(rank) + " on " + all[static_cast<std::size_t>(rank)].host_name();
}

/// Networks in which addresses of some ranks did not answer while others of the same ranks did. The
/// hosts of a job are alike, so that these networks are tried last.
class SilentNetworks {
 public:
  void add(const native::TcpAddress& address) { networks_.insert(network_of(address)); }
  [[nodiscard]] bool contain(const native::TcpAddress& address) const {
    return networks_.contains(network_of(address));
  }

 private:
  using Network = std::array<std::uint8_t, 8>;

  /// As most networks are divided: 24 bits of an IPv4 address, 64 of an IPv6 address.
  static Network network_of(const native::TcpAddress& address) {
    Network network{};
    std::copy_n(address.bytes.begin(), address.family == AF_INET ? 3 : network.size(),
                network.begin());
    return network;
  }

  std::set<Network> networks_;
};

/// Connections to one rank with a lower number.
class Connector {
 public:
  Connector(std::span<const TcpContact> all, int rank, int peer, SilentNetworks& silent)
      : all_(all), peer_(peer), contact_(all[static_cast<std::size_t>(peer)]), silent_(silent) {
    std::stable_partition(contact_.addresses.begin(), contact_.addresses.begin() + contact_.count,
                          [&](const auto& address) { return !silent.contain(address); });
    hello_.secret = all.front().secret;
    hello_.from = static_cast<std::uint32_t>(rank);
    hello_.to = static_cast<std::uint32_t>(peer);
  }

  TcpSockets connect(const Deadline& deadline) {
    TcpSockets sockets;
    for (std::uint32_t channel = 0; channel < kTcpChannels; ++channel) {
      hello_.channel = channel;
      sockets[channel] = try_addresses(deadline);
      while (!sockets[channel].is_open() && !deadline.has_passed()) {
        std::this_thread::sleep_for(
            std::min<std::chrono::nanoseconds>(deadline.remaining(), kRoundPause));
        sockets[channel] = try_addresses(deadline);
      }
      if (!sockets[channel].is_open()) {
        throw std::runtime_error(name_of(all_, peer_) + " cannot be reached: " + reasons_);
      }
    }
    return sockets;
  }

 private:
  native::FileDescriptor try_addresses(const Deadline& deadline) {
    reasons_.clear();
    for (std::uint32_t tried = 0; tried < contact_.count; ++tried) {
      // First the one that has worked before.
      const std::uint32_t index = (best_ + tried) % contact_.count;
      const auto& address = contact_.addresses[index];
      std::string reason;
      auto socket = try_address(address, deadline, reason);
      if (socket.is_open()) {
        best_ = index;
        for (const auto& other : unanswered_) {
          if (other.bytes != address.bytes) silent_.add(other);  // it may have been slow before
        }
        return socket;
      }
      reasons_ += (reasons_.empty() ? "" : ", ") + native::to_string(address) + ": " + reason;
      if (deadline.has_passed()) break;
    }
    address_limit_ = std::min<std::chrono::milliseconds>(2 * address_limit_, kAddressLimit);
    return {};
  }

  native::FileDescriptor try_address(const native::TcpAddress& address, const Deadline& whole,
                                     std::string& reason) {
    const Deadline limit = sooner(whole, address_limit_);
    auto socket = native::connect_tcp(address, limit, reason);
    if (!socket.is_open()) {
      if (limit.has_passed()) unanswered_.push_back(address);
      return {};
    }
    const Deadline deadline = sooner(whole, kAnswerLimit);
    Answer answer;
    const Answer confirmation{.rank = hello_.from};
    if (native::write_all(socket.get(), &hello_, sizeof(hello_), deadline) &&
        native::read_all(socket.get(), &answer, sizeof(answer), deadline) &&
        answer.magic == kMagic && answer.rank == hello_.to &&
        native::write_all(socket.get(), &confirmation, sizeof(confirmation), deadline)) {
      return socket;
    }
    reason = "whoever answers there is not that rank";
    return {};
  }

  std::span<const TcpContact> all_;
  int peer_;
  TcpContact contact_;
  SilentNetworks& silent_;
  Hello hello_;
  std::uint32_t best_ = 0;
  std::chrono::milliseconds address_limit_ = kFirstAddressLimit;
  std::vector<native::TcpAddress> unanswered_;
  std::string reasons_;
};

/// Whether the connection is one of this group's: its place is told then.
bool welcome(int socket, const Hello& expected, std::size_t ranks, const Deadline& deadline,
             Hello& hello) {
  if (!native::read_all(socket, &hello, sizeof(hello), sooner(deadline, kHelloLimit))) return false;
  const bool is_known = hello.magic == kMagic && hello.secret == expected.secret &&
                        hello.to == expected.to && hello.from > expected.to && hello.from < ranks &&
                        hello.channel < kTcpChannels;
  if (!is_known) return false;
  const Answer answer{.rank = expected.to};
  Answer confirmation;
  return native::write_all(socket, &answer, sizeof(answer), deadline) &&
         native::read_all(socket, &confirmation, sizeof(confirmation), deadline) &&
         confirmation.magic == kMagic && confirmation.rank == hello.from;
}

}  // namespace

std::string TcpContact::host_name() const {
  return {host.data(), std::find(host.data(), host.data() + host.size(), '\0')};
}

TcpMesh::TcpMesh(const std::string& interfaces) {
  bool is_any_wanted = false;
  std::string names;
  for (const auto& candidate : native::interface_addresses()) {
    const bool is_one = is_wanted(candidate, interfaces);
    is_any_wanted = is_any_wanted || is_one;
    if (!names.ends_with(candidate.interface)) {
      names += (names.empty() ? "" : ", ") + candidate.interface;
    }
    // The loop-back interface leads to ranks of this host where nothing else does.
    if (!candidate.is_loopback && !is_one) continue;
    if (contact_.count == TcpContact::kMaxAddresses) break;
    auto& address = contact_.addresses[contact_.count++];
    address = candidate.address;
    address.port = listener_.port();
    description_ +=
        (description_.empty() ? "" : ", ") + candidate.interface + " " + native::to_string(address);
  }
  if (!is_any_wanted) {
    throw std::runtime_error(interfaces.empty()
                                 ? "no network interface that is up has an address"
                                 : "no network interface that is up has an address and a name that "
                                   "begins with one of '" +
                                       interfaces + "' (addresses are those of: " + names + ")");
  }
  std::random_device random;
  for (auto& word : contact_.secret) word = (std::uint64_t{random()} << 32) | random();
  ::gethostname(contact_.host.data(), contact_.host.size() - 1);
}

std::vector<TcpSockets> TcpMesh::connect(std::span<const TcpContact> all, int rank,
                                         const Deadline& deadline) {
  std::vector<TcpSockets> sockets(all.size());
  SilentNetworks silent;
  for (int peer = 0; peer < rank; ++peer) {
    sockets[static_cast<std::size_t>(peer)] = Connector(all, rank, peer, silent).connect(deadline);
  }
  Hello expected;
  expected.secret = all.front().secret;
  expected.to = static_cast<std::uint32_t>(rank);
  std::size_t missing = (all.size() - static_cast<std::size_t>(rank) - 1) * kTcpChannels;
  while (missing > 0) {
    auto socket = listener_.accept(deadline);
    if (!socket.is_open()) break;
    Hello hello;
    if (!welcome(socket.get(), expected, all.size(), deadline, hello)) continue;
    auto& place = sockets[hello.from][hello.channel];
    if (!place.is_open()) --missing;
    place = std::move(socket);
  }
  if (missing == 0) return sockets;
  std::string late;
  for (std::size_t peer = static_cast<std::size_t>(rank) + 1; peer < all.size(); ++peer) {
    if (sockets[peer].back().is_open()) continue;
    late += (late.empty() ? "" : ", ") + name_of(all, static_cast<int>(peer));
  }
  throw std::runtime_error(late + " did not connect to rank " + std::to_string(rank) + " at " +
                           description_);
}

}  // namespace lockstep
