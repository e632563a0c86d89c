// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/signal_flag.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <string>

#include "native/posix/posix_check.h"
#include "native/posix/process_end.h"

namespace lockstep::native {
namespace {

constexpr int kSignals = 65;

// All that a handler may touch. Signals belong to the process as a whole.
std::array<std::atomic<unsigned>, kSignals> times_raised{};
std::atomic<pid_t> owner{0};
static_assert(std::atomic<unsigned>::is_always_lock_free);

void note(int signal) {
  const int error = errno;
  if (::getpid() == owner.load(std::memory_order_relaxed)) {
    times_raised[static_cast<std::size_t>(signal)].fetch_add(1, std::memory_order_relaxed);
  } else {
    // A fork: whoever wants it to end must be able to. The signal is blocked until this returns.
    struct sigaction plain {};
    plain.sa_handler = SIG_DFL;
    ::sigaction(signal, &plain, nullptr);
    ::kill(::getpid(), signal);
  }
  errno = error;
}

}  // namespace

SignalFlag::SignalFlag(std::span<const int> signals) {
  owner.store(::getpid(), std::memory_order_relaxed);
  for (const int signal : signals) {
    struct sigaction action {};
    action.sa_handler = note;
    action.sa_flags = SA_RESTART;
    Handled handled;
    handled.signal = signal;
    const bool is_one = signal > 0 && signal < kSignals;
    // First: one that comes right after the next call counts.
    if (is_one) handled.seen_before = times_raised[static_cast<std::size_t>(signal)].load();
    if (!is_one || ::sigaction(signal, &action, &handled.before) != 0) {
      const int error = is_one ? errno : EINVAL;
      restore();
      throw_errno("signal " + std::to_string(signal) + " cannot be handled", error);
    }
    handled_.push_back(handled);
  }
}

SignalFlag::~SignalFlag() {
  restore();
}

bool SignalFlag::is_raised() const noexcept {
  return std::any_of(handled_.begin(), handled_.end(), [](const Handled& one) {
    return times_raised[static_cast<std::size_t>(one.signal)].load() != one.seen_before;
  });
}

void SignalFlag::restore() noexcept {
  for (auto one = handled_.rbegin(); one != handled_.rend(); ++one) {
    ::sigaction(one->signal, &one->before, nullptr);
  }
  // Others may have been made meanwhile that wait for the default disposition of SIGTERM.
  if (!handled_.empty()) ProcessEnd::handle_signal_again();
  handled_.clear();
}

}  // namespace lockstep::native
