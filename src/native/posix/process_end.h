// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace lockstep::native {

/// Tells a thread that the process is about to end, and lets the process wait until the thread is
/// ready: at SIGTERM, if nobody else handles it; at an exception that nobody catches; and at exit.
///
/// While one of these lives, SIGTERM has a handler where its disposition was the default one, and
/// there is a handler of `std::terminate`, which calls the one before. After SIGTERM, the process
/// ends by that signal when the last of the threads is ready. A handler that the program installs
/// is left alone, whether it comes earlier or later. A child that is forked meanwhile ends as if
/// there were no such handlers.
///
/// Thread-safety: any thread may make, ask and destroy; one thread sleeps on `word`.
/// Owns: one of `kMost` places of the process.
class ProcessEnd {
 public:
  static constexpr std::size_t kMost = 64;
  /// In `word`: the process ends soon, by SIGTERM or an exception. `ready` is due within a second.
  static constexpr std::uint32_t kSoon = 1U << 31;
  /// In `word`: the process leaves by `exit`. `ready` is due within `exit_limit`.
  static constexpr std::uint32_t kAtExit = 1U << 30;
  static constexpr std::chrono::milliseconds kSoonLimit{1000};

  /// Throws: `std::system_error` when `kMost` of them live.
  explicit ProcessEnd(std::chrono::milliseconds exit_limit);
  ~ProcessEnd();
  ProcessEnd(const ProcessEnd&) = delete;
  ProcessEnd& operator=(const ProcessEnd&) = delete;

  /// The thread sleeps on it with `futex_wait`. The lower bits are the owner's. It lies in memory
  /// that a handler of a signal may touch at any time.
  [[nodiscard]] std::atomic<std::uint32_t>& word() const noexcept;

  /// Called by the thread that sleeps on `word`: if it calls `std::terminate`, it does not wait for
  /// itself.
  void claim_thread() noexcept;

  /// The thread has done what it can. Takes the two bits back. After SIGTERM, the last one to call
  /// it ends the process.
  void ready() noexcept;

  /// Whether the process has begun to leave by `exit`: its statics are being destroyed.
  [[nodiscard]] static bool is_exiting() noexcept;

  /// What others have registered for `exit` so far comes after the part of these threads.
  static void come_first_at_exit() noexcept;

  /// The handler of SIGTERM again, where one of these lives and the disposition is the default one.
  /// Whoever has restored the disposition calls it.
  static void handle_signal_again() noexcept;

 private:
  std::size_t place_;
};

}  // namespace lockstep::native
