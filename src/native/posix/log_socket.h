// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/tcp_socket.h"

namespace lockstep::native {

/// A connection to a server that takes messages and answers nothing. No call waits.
///
/// Thread-safety: one thread at a time.
/// Owns: the socket, which forks of the process do not have.
class LogSocket {
 public:
  enum class State {
    Ready,    ///< done
    Busy,     ///< try again later
    TooLong,  ///< the socket takes no message of this length, but shorter ones
    Failed    ///< `failure` says why; the socket is of no use any more
  };

  /// To the socket of datagrams with this path. Throws nothing: `state` says whether it stands.
  [[nodiscard]] static LogSocket to_path(const std::string& path);
  [[nodiscard]] static LogSocket over_udp(const TcpAddress& address);
  [[nodiscard]] static LogSocket over_tcp(const TcpAddress& address);

  LogSocket(LogSocket&&) = default;

  /// Whether the connection stands.
  [[nodiscard]] State state();
  /// One message, whole or not at all.
  [[nodiscard]] State send_message(std::string_view message);
  /// As much of a stream as fits: shortens `bytes` by it. `Ready`: all of it.
  [[nodiscard]] State send_stream(std::string_view& bytes);
  /// Of a stream: whether the server's system has all that was sent. `Failed` where the server has
  /// closed the connection.
  [[nodiscard]] State is_received();

  [[nodiscard]] const std::string& failure() const { return failure_; }

 private:
  LogSocket(int family, int type, const void* name, std::size_t name_bytes);
  [[nodiscard]] State fail(int error);

  FileDescriptor socket_;
  std::unique_ptr<CloseOnFork> ends_here_;  // after the socket: goes first
  bool is_connecting_ = false;
  std::string failure_;
};

}  // namespace lockstep::native
