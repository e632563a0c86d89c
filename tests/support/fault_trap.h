// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockstep::testing {

/// Stops the first thread that touches memory, at that moment: a function is called in this thread,
/// and then the touch goes through, as all later ones do. So a test can see what is touched first,
/// and act between two steps of code that has no place for that.
///
/// The function runs in a signal handler, and may call only what such a handler may.
/// Thread-safety: one trap at a time in a process.
class FaultTrap {
 public:
  using AtTouch = void (*)(const void* address, void* data);

  /// The pages around `begin`, of which nothing but `protection` is allowed until they are touched.
  FaultTrap(const void* begin, std::size_t bytes, int protection, AtTouch at_touch, void* data)
      : at_touch_(at_touch), data_(data) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    begin_ = reinterpret_cast<std::uintptr_t>(begin) / page * page;
    end_ = (reinterpret_cast<std::uintptr_t>(begin) + bytes + page - 1) / page * page;
    armed() = this;
    struct sigaction action {};
    action.sa_sigaction = &FaultTrap::handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigaction(SIGSEGV, &action, &before_);
    ::mprotect(reinterpret_cast<void*>(begin_), end_ - begin_, protection);
  }
  ~FaultTrap() {
    open();
    ::sigaction(SIGSEGV, &before_, nullptr);
    armed() = nullptr;
  }
  FaultTrap(const FaultTrap&) = delete;
  FaultTrap& operator=(const FaultTrap&) = delete;

 private:
  static std::atomic<FaultTrap*>& armed() {
    static std::atomic<FaultTrap*> trap{nullptr};
    return trap;
  }

  static void handle(int, siginfo_t* info, void*) {
    auto* const trap = armed().load();
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    if (trap == nullptr || address < trap->begin_ || address >= trap->end_) {
      ::signal(SIGSEGV, SIG_DFL);  // a mistake of the program's, which comes again now
      return;
    }
    if (!trap->is_touched_.exchange(true)) trap->at_touch_(info->si_addr, trap->data_);
    trap->open();
  }
  void open() const {
    ::mprotect(reinterpret_cast<void*>(begin_), end_ - begin_, PROT_READ | PROT_WRITE);
  }

  std::uintptr_t begin_ = 0;
  std::uintptr_t end_ = 0;
  AtTouch at_touch_;
  void* data_;
  std::atomic<bool> is_touched_{false};
  struct sigaction before_ {};
};

}  // namespace lockstep::testing
