// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <signal.h>

#include <span>
#include <utility>
#include <vector>

namespace lockstep::native {

/// Whether one of some signals has come since this was made. Meanwhile they do nothing else. A
/// child that is forked meanwhile treats them as if it had no handler.
///
/// Thread-safety: `is_raised` from any thread; one thread at a time makes and destroys.
/// Owns: the handlers of these signals; the ones before come back. Of several, the last one made
/// goes first.
class SignalFlag {
 public:
  /// Throws: `std::system_error` for a signal that has no handler, such as SIGKILL.
  explicit SignalFlag(std::span<const int> signals);
  ~SignalFlag();
  SignalFlag(const SignalFlag&) = delete;
  SignalFlag& operator=(const SignalFlag&) = delete;

  [[nodiscard]] bool is_raised() const noexcept;

 private:
  struct Handled {
    int signal = 0;
    unsigned seen_before = 0;
    struct sigaction before {};
  };

  void restore() noexcept;

  std::vector<Handled> handled_;
};

}  // namespace lockstep::native
