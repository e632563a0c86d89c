// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// A Unix datagram socket under an abstract name: reachable by processes of this host, with no file
/// and no listening socket, gone when its owner is. Carries small messages and, with them, file
/// descriptors.
///
/// Messages of other users' processes are dropped unread: the kernel says who sent them.
/// Thread-safety: one thread at a time.
class DatagramSocket {
 public:
  static constexpr std::size_t kMaxMessage = 4096;

  struct Message {
    std::vector<std::byte> bytes;
    FileDescriptor descriptor;  ///< not open when none came
  };

  /// Throws: `std::system_error`, with EADDRINUSE when somebody has that name.
  explicit DatagramSocket(const std::string& name);

  /// Whether a socket of this process has that name. False also where /proc does not tell.
  [[nodiscard]] static bool is_own(const std::string& name);

  /// Sends to the socket with that name, `descriptor` as well unless it is -1. Returns false when
  /// nobody has that name (yet) or the receiver's queue is full: try again.
  [[nodiscard]] bool try_send(const std::string& name, std::span<const std::byte> bytes,
                              int descriptor = -1);

  /// The next message; nothing when none came within `limit`.
  /// Blocks: the calling thread, for at most `limit`.
  [[nodiscard]] std::optional<Message> receive(std::chrono::milliseconds limit);

 private:
  FileDescriptor socket_;
};

}  // namespace lockstep::native
