// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/loopback_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <memory>

namespace lockstep::native {
namespace {

bool is_loopback(const addrinfo& address) {
  if (address.ai_family == AF_INET) {
    const auto& name = *reinterpret_cast<const sockaddr_in*>(address.ai_addr);
    return (ntohl(name.sin_addr.s_addr) >> 24) == 127;
  }
  if (address.ai_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address.ai_addr)->sin6_addr);
  }
  return false;
}

FileDescriptor bind_to(const addrinfo& address) {
  FileDescriptor listener(
      ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!listener.is_open()) return {};
  // A group that closed a moment ago must not keep the next one from the port.
  const int on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(listener.get(), address.ai_addr, address.ai_addrlen) != 0) return {};
  return listener;
}

}  // namespace

FileDescriptor bind_loopback(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  // Other hosts may connect to a name that has an address elsewhere, too.
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    if (!is_loopback(*at)) return {};
  }
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    if (auto listener = bind_to(*at); listener.is_open()) return listener;
  }
  return {};
}

}  // namespace lockstep::native
