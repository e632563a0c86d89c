// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>

namespace lockstep::testing {

/// A port of the loop-back interface that nobody uses, and that hardly anybody gets before the
/// caller uses it: it lies below those that the kernel gives to whoever asks for any port (from
/// 32768), and processes begin at other places, with few exceptions.
inline std::uint16_t free_port() {
  constexpr unsigned kFirst = 10'000, kPorts = 20'000;
  static std::atomic<unsigned> next{static_cast<unsigned>(::getpid()) * 61};
  for (unsigned tried = 0; tried < kPorts; ++tried) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // As those who listen there do it: connections that have ended are no obstacle.
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const auto port = static_cast<std::uint16_t>(kFirst + next++ % kPorts);
    address.sin_port = htons(port);
    const int result = ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    ::close(socket);
    if (result == 0) return port;
  }
  throw std::runtime_error("this test finds no free port");
}

}  // namespace lockstep::testing
