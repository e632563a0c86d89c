// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// Tells whether another process of this host still lives, by a pidfd: a reused process id cannot
/// deceive it.
class PeerProcess {
 public:
  /// Watches nothing; such a peer always counts as alive.
  PeerProcess() = default;
  /// Where the process cannot be watched (a kernel without pidfd, another pid namespace) it counts
  /// as alive.
  PeerProcess(pid_t pid, std::uint64_t pid_namespace);

  /// One system call; never blocks.
  [[nodiscard]] bool is_alive() const;
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// "alive", "stopped", "dead": for messages.
  [[nodiscard]] std::string state() const;

  /// Identifies the pid namespace of the calling process; ids of processes mean nothing across
  /// namespaces.
  [[nodiscard]] static std::uint64_t own_pid_namespace();

 private:
  pid_t pid_ = 0;
  FileDescriptor pidfd_;
  bool was_dead_ = false;
};

}  // namespace lockstep::native
