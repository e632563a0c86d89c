// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <vector>

namespace lockstep {

/// Lists the system calls that this thread makes while counting is on. They are carried out all the
/// same. Works by the kernel's syscall user dispatch (Linux 5.11, x86-64).
class SystemCallCounter {
 public:
  SystemCallCounter() {
#if defined(__x86_64__) && defined(PR_SET_SYSCALL_USER_DISPATCH)
    struct sigaction action {};
    action.sa_sigaction = &SystemCallCounter::handle;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSYS, &action, &before_);
    selector() = 0;
    is_available_ =
        ::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector()) == 0;
#endif
  }
  ~SystemCallCounter() {
#if defined(__x86_64__) && defined(PR_SET_SYSCALL_USER_DISPATCH)
    selector() = 0;
    if (is_available_) ::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
    ::sigaction(SIGSYS, &before_, nullptr);
#endif
  }
  SystemCallCounter(const SystemCallCounter&) = delete;
  SystemCallCounter& operator=(const SystemCallCounter&) = delete;

  [[nodiscard]] bool is_available() const {
    return is_available_;
  }

  /// Numbers of the calls that `action` makes.
  template <class Action>
  std::vector<long> calls_of(const Action& action) {
    count() = 0;
    selector() = 1;
    action();
    selector() = 0;
    return {numbers(), numbers() + (count() < kMost ? count() : kMost)};
  }

 private:
  static constexpr int kMost = 64;

  static char& selector() {
    static thread_local char value = 0;
    return value;
  }
  static int& count() {
    static thread_local int value = 0;
    return value;
  }
  static long* numbers() {
    static thread_local long values[kMost];
    return values;
  }

#if defined(__x86_64__)
  // The call has not happened: it happens here. Nothing in here may be dispatched again, and the
  // return from the handler is a system call too, so counting ends with the first one.
  static void handle(int, siginfo_t*, void* context) {
    selector() = 0;
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (count() < kMost) numbers()[count()] = registers[REG_RAX];
    ++count();
    registers[REG_RAX] =
        ::syscall(registers[REG_RAX], registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                  registers[REG_R10], registers[REG_R8], registers[REG_R9]);
  }
#endif

  struct sigaction before_ {};
  bool is_available_ = false;
};

}  // namespace lockstep
