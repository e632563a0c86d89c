// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/peer_process.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace lockstep::native {

PeerProcess::PeerProcess(pid_t pid, std::uint64_t pid_namespace) : pid_(pid) {
  if (pid_namespace != own_pid_namespace()) return;
  pidfd_ = FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  was_dead_ = !pidfd_.is_open() && errno == ESRCH;
}

bool PeerProcess::is_alive() const {
  if (was_dead_) return false;
  if (!pidfd_.is_open()) return true;
  pollfd entry{pidfd_.get(), POLLIN, 0};
  // Readable means ended. A poll that a signal interrupts says nothing, least of all that the peer
  // died.
  return ::poll(&entry, 1, 0) <= 0;
}

std::string PeerProcess::state() const {
  if (!is_alive()) return "dead";
  std::ifstream stat("/proc/" + std::to_string(pid_) + "/stat");
  std::string text;
  std::getline(stat, text);
  // "pid (name) state ...": the name may hold anything, so look behind the last parenthesis.
  const auto end_of_name = text.rfind(')');
  const bool is_stopped = end_of_name != std::string::npos && end_of_name + 2 < text.size() &&
                          (text[end_of_name + 2] == 'T' || text[end_of_name + 2] == 't');
  return is_stopped ? "stopped" : "alive";
}

std::uint64_t PeerProcess::own_pid_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

}  // namespace lockstep::native
