// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "native/posix/file_descriptor.h"
#include "native/posix/owning_process.h"

namespace lockstep::native {

/// "was killed by signal 9 (Killed)", "exited with status 3": a status of wait(2) in words.
[[nodiscard]] std::string describe_wait_status(int status);

/// Forks a child that runs `body` and then `_exit`s with its result (125 when it throws). No
/// destructor or `atexit` handler of the parent ever runs in it. What it prints is written, and
/// what the parent had printed before the fork is left to the parent (`output_buffers`).
///
/// The child starts with default signal dispositions, all signals unblocked, and the name `name`
/// (15 characters). It ignores the signals that its parent ignores; SIGINT, SIGQUIT, SIGHUP,
/// SIGUSR1 and SIGUSR2, which terminals and batch systems send to whole process groups and which
/// the parent answers; and SIGXFSZ, so that a write to a file that may not grow returns an error.
/// It gets SIGKILL when its parent dies, if the parent's main thread has forked it. The kernel
/// would send SIGKILL at the end of any other forking thread, so such a child must watch its parent
/// itself.
///
/// Throws: `std::system_error` in the parent when fork fails.
[[nodiscard]] pid_t fork_child(const char* name, const std::function<int()>& body);

/// One forked child. Move-only.
///
/// Thread-safety: none.
/// Owns: the child. The destructor kills and reaps it (Blocks: at most 30 s, until the killed
/// process has had a core to end on). The destructor of a copy in a fork does nothing.
class ChildProcess {
 public:
  ChildProcess() = default;
  ChildProcess(const char* name, const std::function<int()>& body);
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

  /// The status of wait(2) once the child has ended and has been reaped. It is kept: each later
  /// call returns the same status at once, although the kernel has forgotten the child.
  /// Blocks: at most `limit`.
  [[nodiscard]] std::optional<int> wait(std::chrono::milliseconds limit) noexcept;

  void kill() noexcept;

 private:
  [[nodiscard]] bool has_ended_within(std::chrono::milliseconds limit) const noexcept;

  pid_t pid_ = -1;
  FileDescriptor handle_;  // a pidfd: never names another process, and can be polled
  std::optional<int> status_;
  OwningProcess owner_;
};

}  // namespace lockstep::native
