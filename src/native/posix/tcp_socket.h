// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "concurrency/deadline.h"
#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// An address of IPv4 or IPv6, and a port. Plain bytes: one rank may send it to another as it is.
struct TcpAddress {
  std::uint16_t family = 0;  ///< AF_INET or AF_INET6; 0: none
  std::uint16_t port = 0;    ///< in the host's byte order
  std::uint32_t scope = 0;   ///< of a link-local address of IPv6
  std::array<std::uint8_t, 16> bytes{};
};

/// "10.0.0.1:4000", "[fd00::1]:4000".
[[nodiscard]] std::string to_string(const TcpAddress& address);

/// An address as the calls of sockets take it. Returns the length of what `storage` has then.
socklen_t to_sockaddr(const TcpAddress& address, sockaddr_storage& storage);
/// `name`: of IPv4 or IPv6.
[[nodiscard]] TcpAddress from_sockaddr(const sockaddr& name);

/// An address of this host. `megabits` is what the driver says of the interface; 0: nothing.
struct InterfaceAddress {
  std::string interface;
  TcpAddress address;
  bool is_loopback = false;
  int megabits = 0;
};

/// The addresses of all interfaces that are up, the fastest interface first, loop-back last.
/// Throws: `std::system_error`.
[[nodiscard]] std::vector<InterfaceAddress> interface_addresses();

/// Accepts connections on a port that the system chooses, on every interface. Non-blocking.
class TcpListener {
 public:
  /// Throws: `std::system_error`.
  TcpListener();

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// Blocks: until a connection comes or `deadline` has passed (not open then). Throws:
  /// `std::system_error`.
  [[nodiscard]] FileDescriptor accept(const Deadline& deadline);

 private:
  FileDescriptor socket_;
  std::uint16_t port_ = 0;
};

/// Connects, without delay of small packets (TCP_NODELAY), with keep-alive probes. Blocks: until
/// the connection stands, it is refused, or `deadline` has passed. The result is not open where
/// there is none, and `reason` says why. The socket does not block.
[[nodiscard]] FileDescriptor connect_tcp(const TcpAddress& address, const Deadline& deadline,
                                         std::string& reason);

// Whole blocks of bytes over a socket that does not block, for set-up. False: the deadline has
// passed, or the connection has ended.
[[nodiscard]] bool write_all(int socket, const void* data, std::size_t bytes,
                             const Deadline& deadline);
[[nodiscard]] bool read_all(int socket, void* data, std::size_t bytes, const Deadline& deadline);

}  // namespace lockstep::native
