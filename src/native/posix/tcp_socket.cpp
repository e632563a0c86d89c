// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/tcp_socket.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <fstream>
#include <memory>

#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

// A host that is switched off, or a cable that is cut, says nothing: the kernel asks after so many
// seconds of silence, so often, until it gives the connection up.
constexpr int kSilenceSeconds = 5;
constexpr int kProbeSeconds = 2;
constexpr int kProbes = 5;

void set_option(int socket, int level, int option, int value) {
  ::setsockopt(socket, level, option, &value, sizeof(value));
}

void set_stream_options(int socket) {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, kSilenceSeconds);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
}

/// False: the deadline has passed. Blocks.
bool wait_for(int socket, short events, const Deadline& deadline) {
  while (true) {
    pollfd entry{.fd = socket, .events = events, .revents = 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining()).count() + 1;
    const int found = ::poll(&entry, 1, static_cast<int>(std::min<long>(left, INT_MAX)));
    if (found > 0) return true;
    if (found < 0 && errno != EINTR) throw_errno("poll");
    if (deadline.has_passed()) return false;
  }
}

int megabits_of(const std::string& interface) {
  std::ifstream file("/sys/class/net/" + interface + "/speed");
  int megabits = 0;
  return file >> megabits && megabits > 0 ? megabits : 0;
}

/// IPv6 and IPv4 at once where the system has IPv6, else IPv4.
FileDescriptor open_listener() {
  FileDescriptor socket(
      ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (socket.is_open()) {
    set_option(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_addr = in6addr_any;
    const auto* name = reinterpret_cast<const sockaddr*>(&any);
    if (::bind(socket.get(), name, sizeof(any)) == 0) return socket;
  }
  socket =
      FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket.is_open()) throw_errno("socket");
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) != 0) {
    throw_errno("bind to a port that the system chooses");
  }
  return socket;
}

}  // namespace

socklen_t to_sockaddr(const TcpAddress& address, sockaddr_storage& storage) {
  storage = {};
  if (address.family == AF_INET) {
    auto& name = reinterpret_cast<sockaddr_in&>(storage);
    name.sin_family = AF_INET;
    name.sin_port = htons(address.port);
    std::memcpy(&name.sin_addr, address.bytes.data(), sizeof(name.sin_addr));
    return sizeof(name);
  }
  auto& name = reinterpret_cast<sockaddr_in6&>(storage);
  name.sin6_family = AF_INET6;
  name.sin6_port = htons(address.port);
  name.sin6_scope_id = address.scope;
  std::memcpy(&name.sin6_addr, address.bytes.data(), sizeof(name.sin6_addr));
  return sizeof(name);
}

TcpAddress from_sockaddr(const sockaddr& name) {
  TcpAddress address;
  address.family = name.sa_family;
  if (name.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(name);
    address.port = ntohs(v4.sin_port);
    std::memcpy(address.bytes.data(), &v4.sin_addr, sizeof(v4.sin_addr));
  } else {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(name);
    address.port = ntohs(v6.sin6_port);
    address.scope = v6.sin6_scope_id;
    std::memcpy(address.bytes.data(), &v6.sin6_addr, sizeof(v6.sin6_addr));
  }
  return address;
}

std::string to_string(const TcpAddress& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.family != AF_INET && address.family != AF_INET6) return "no address";
  ::inet_ntop(address.family, address.bytes.data(), text.data(), text.size());
  const std::string port = ":" + std::to_string(address.port);
  return address.family == AF_INET ? text.data() + port
                                   : "[" + std::string(text.data()) + "]" + port;
}

std::vector<InterfaceAddress> interface_addresses() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) throw_errno("getifaddrs");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> all(first, &::freeifaddrs);
  std::vector<InterfaceAddress> result;
  for (const ifaddrs* at = all.get(); at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0) continue;
    if (at->ifa_addr->sa_family != AF_INET && at->ifa_addr->sa_family != AF_INET6) continue;
    result.push_back({.interface = at->ifa_name,
                      .address = from_sockaddr(*at->ifa_addr),
                      .is_loopback = (at->ifa_flags & IFF_LOOPBACK) != 0,
                      .megabits = megabits_of(at->ifa_name)});
  }
  std::stable_sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    if (a.is_loopback != b.is_loopback) return b.is_loopback;
    return a.megabits > b.megabits;
  });
  return result;
}

TcpListener::TcpListener() : socket_(open_listener()) {
  if (::listen(socket_.get(), SOMAXCONN) != 0) throw_errno("listen");
  sockaddr_storage name{};
  socklen_t length = sizeof(name);
  if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0) {
    throw_errno("getsockname");
  }
  port_ = from_sockaddr(reinterpret_cast<const sockaddr&>(name)).port;
}

FileDescriptor TcpListener::accept(const Deadline& deadline) {
  while (true) {
    FileDescriptor socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.is_open()) {
      set_stream_options(socket.get());
      return socket;
    }
    // The last two: the connection has ended before it was accepted.
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
      throw_errno("accept");
    }
    if (!wait_for(socket_.get(), POLLIN, deadline)) return {};
  }
}

FileDescriptor connect_tcp(const TcpAddress& address, const Deadline& deadline,
                           std::string& reason) {
  FileDescriptor socket(
      ::socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket.is_open()) {
    reason = error_text(errno);
    return {};
  }
  sockaddr_storage name{};
  const socklen_t length = to_sockaddr(address, name);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) {
      reason = error_text(errno);
      return {};
    }
    if (!wait_for(socket.get(), POLLOUT, deadline)) {
      reason = "no answer";
      return {};
    }
    int error = 0;
    socklen_t error_bytes = sizeof(error);
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &error_bytes);
    if (error != 0) {
      reason = error_text(error);
      return {};
    }
  }
  set_stream_options(socket.get());
  return socket;
}

bool write_all(int socket, const void* data, std::size_t bytes, const Deadline& deadline) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const auto count = ::send(socket, next, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      next += count;
      bytes -= static_cast<std::size_t>(count);
    } else if (errno == EAGAIN) {
      if (!wait_for(socket, POLLOUT, deadline)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool read_all(int socket, void* data, std::size_t bytes, const Deadline& deadline) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const auto count = ::recv(socket, next, bytes, MSG_DONTWAIT);
    if (count > 0) {
      next += count;
      bytes -= static_cast<std::size_t>(count);
    } else if (count == 0) {
      return false;
    } else if (errno == EAGAIN) {
      if (!wait_for(socket, POLLIN, deadline)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace lockstep::native
