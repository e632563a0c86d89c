// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/child_process.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "concurrency/deadline.h"
#include "native/posix/output_buffers.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

constexpr int kBodyThrew = 125;
// A killed process goes at once, but it needs a core for that. One that is left unreaped stays in
// the process table for as long as its parent lives.
constexpr std::chrono::seconds kEndOfKilled{30};

// A signal to the whole process group must not end the children alone. So they ignore the signals
// that only the parent answers, those that it ignores, and SIGXFSZ, but no faults.
bool shall_be_ignored(int number, const struct sigaction& inherited) {
  switch (number) {
    case SIGINT:
    case SIGHUP:
    case SIGUSR1:
    case SIGUSR2:
    case SIGQUIT:
    case SIGXFSZ:
      return true;
    case SIGCHLD:  // whoever ignores it learns nothing of its children
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGABRT:
    case SIGTRAP:
    case SIGSYS:
      return false;
    default:
      return inherited.sa_handler == SIG_IGN;
  }
}

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    const auto handler = shall_be_ignored(number, action) ? SIG_IGN : SIG_DFL;
    if (action.sa_handler == handler) continue;
    action = {};
    action.sa_handler = handler;
    ::sigaction(number, &action, nullptr);  // SIGKILL, SIGSTOP and libc's own refuse; that is fine
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void run_child(const char* name, bool follow_parent, pid_t parent,
                            const std::function<int()>& body) {
  int code = kBodyThrew;
  try {
    if (follow_parent) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(0);  // it died before the line above
    }
    reset_signals();
    drop_inherited_output();
    ::prctl(PR_SET_NAME, name);
    code = body();
  } catch (...) {
    code = kBodyThrew;
  }
  write_pending_output();
  ::_exit(code);
}

}  // namespace

std::string describe_wait_status(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    const char* text = ::sigdescr_np(number);
    return "was killed by signal " + std::to_string(number) + " (" +
           (text != nullptr ? text : "unknown") + ")";
  }
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

pid_t fork_child(const char* name, const std::function<int()>& body) {
  const bool follow_parent = ::getpid() == ::gettid();
  const pid_t parent = ::getpid();
  // No handler of the program may run in the child before it has reset them.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::fork();
  const int error = errno;
  if (pid == 0) run_child(name, follow_parent, parent, body);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) throw_errno("fork of a data worker process failed", error);
  return pid;
}

ChildProcess::ChildProcess(const char* name, const std::function<int()>& body)
    : pid_(fork_child(name, body)), handle_(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0))) {
  if (handle_.is_open()) return;
  const int error = errno;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);  // ends at once: SIGKILL cannot be refused
  throw_errno("pidfd_open failed; Linux 5.4 or newer is needed", error);
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || status_ || !owner_.is_current()) return;
  kill();
  static_cast<void>(wait(kEndOfKilled));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      handle_(std::move(other.handle_)),
      status_(std::exchange(other.status_, std::nullopt)),
      owner_(other.owner_) {}

std::optional<int> ChildProcess::wait(std::chrono::milliseconds limit) noexcept {
  if (status_ || pid_ < 0) return status_;
  if (!has_ended_within(limit)) return std::nullopt;
  int status = 0;
  // ECHILD: the program ignores SIGCHLD or reaped our child itself; the status is lost, the child
  // is gone.
  const pid_t reaped = ::waitpid(pid_, &status, WNOHANG);
  if (reaped == pid_ || (reaped < 0 && errno == ECHILD)) status_ = status;
  return status_;
}

// A handler of the program's that runs meanwhile ends a poll, and not the wait.
bool ChildProcess::has_ended_within(std::chrono::milliseconds limit) const noexcept {
  const auto deadline = Deadline::after(limit);
  pollfd entry{handle_.get(), POLLIN, 0};
  for (auto left = limit;;
       left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining())) {
    const int ready = ::poll(&entry, 1, static_cast<int>(left.count()));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

void ChildProcess::kill() noexcept {
  if (pid_ < 0 || status_) return;
  ::syscall(SYS_pidfd_send_signal, handle_.get(), SIGKILL, nullptr, 0);
}

}  // namespace lockstep::native
