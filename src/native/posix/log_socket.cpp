// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/log_socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "native/posix/posix_check.h"

namespace lockstep::native {

LogSocket::LogSocket(int family, int type, const void* name, std::size_t name_bytes)
    : socket_(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  if (!socket_.is_open()) {
    static_cast<void>(fail(errno));
    return;
  }
  ends_here_ = std::make_unique<CloseOnFork>(socket_.get());
  if (::connect(socket_.get(), static_cast<const sockaddr*>(name),
                static_cast<socklen_t>(name_bytes)) == 0) {
    return;
  }
  if (errno == EINPROGRESS || errno == EINTR) {
    is_connecting_ = true;
  } else {
    static_cast<void>(fail(errno));
  }
}

LogSocket LogSocket::to_path(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  // Longer paths are refused where they are given; here they would be cut.
  std::memcpy(&name.sun_path[0], path.data(), std::min(path.size(), sizeof(name.sun_path) - 1));
  return {AF_UNIX, SOCK_DGRAM, &name, sizeof(name)};
}

LogSocket LogSocket::over_udp(const TcpAddress& address) {
  sockaddr_storage name{};
  const auto bytes = to_sockaddr(address, name);
  return {address.family, SOCK_DGRAM, &name, bytes};
}

LogSocket LogSocket::over_tcp(const TcpAddress& address) {
  sockaddr_storage name{};
  const auto bytes = to_sockaddr(address, name);
  return {address.family, SOCK_STREAM, &name, bytes};
}

LogSocket::State LogSocket::fail(int error) {
  failure_ = error_text(error);
  ends_here_.reset();
  socket_.reset();
  return State::Failed;
}

LogSocket::State LogSocket::state() {
  if (!socket_.is_open()) return State::Failed;
  if (!is_connecting_) return State::Ready;
  pollfd entry{.fd = socket_.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&entry, 1, 0) <= 0) return State::Busy;
  int error = 0;
  socklen_t error_bytes = sizeof(error);
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &error_bytes);
  if (error != 0) return fail(error);
  is_connecting_ = false;
  return State::Ready;
}

LogSocket::State LogSocket::send_message(std::string_view message) {
  if (!socket_.is_open()) return State::Failed;
  while (true) {
    const auto sent =
        ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return State::Ready;
    if (errno == EAGAIN || errno == ENOBUFS) return State::Busy;
    if (errno == EMSGSIZE) return State::TooLong;
    if (errno != EINTR) return fail(errno);
  }
}

LogSocket::State LogSocket::send_stream(std::string_view& bytes) {
  if (!socket_.is_open()) return State::Failed;
  while (!bytes.empty()) {
    const auto sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      return State::Busy;
    } else if (errno != EINTR) {
      return fail(errno);
    }
  }
  return State::Ready;
}

LogSocket::State LogSocket::is_received() {
  if (!socket_.is_open()) return State::Failed;
  char byte = 0;
  // A server of this kind says nothing: what there is to read is the end of the connection.
  const auto got = ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
  if (got == 0) return fail(ECONNRESET);
  if (got < 0 && errno != EAGAIN && errno != EINTR) return fail(errno);
  int waiting = 0;
  if (::ioctl(socket_.get(), SIOCOUTQ, &waiting) != 0) return fail(errno);
  return waiting == 0 ? State::Ready : State::Busy;
}

}  // namespace lockstep::native
