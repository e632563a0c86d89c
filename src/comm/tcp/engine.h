// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <semaphore>
#include <thread>

#include "comm/tcp/stream.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/owning_process.h"

namespace lockstep {

/// Moves the bytes of a group's streams. While the thread of the program computes, a thread of the
/// engine does it, so that transfers do not wait for calls into the group. While the thread of the
/// program waits in the group, it does it by itself, since it has nothing better to do, and the
/// other thread sleeps: a small collective needs no switch between threads.
///
/// Callbacks of streams run in whichever of the two threads moves the bytes, under `mutex`.
/// Thread-safety: all functions that want the lock to be held say so; the others may be called by
/// the thread of the program. Holds no torch.
class TcpEngine {
 public:
  using Lock = std::unique_lock<std::mutex>;

  /// Throws: `std::system_error` when the system has no descriptor left.
  TcpEngine();
  /// Ends the thread. In a fork: touches nothing.
  ~TcpEngine();
  TcpEngine(const TcpEngine&) = delete;
  TcpEngine& operator=(const TcpEngine&) = delete;

  [[nodiscard]] ReadyStreams& ready() noexcept { return ready_; }
  /// A stream that was made with `ready`; it outlives the engine's thread. Throws:
  /// `std::system_error`.
  void watch(TcpStream& stream);
  /// Without it, bytes move only in calls of the program. Throws: `std::system_error`.
  void start_thread();
  /// Nothing moves any more afterwards, and no callback runs. Blocks: until the thread has ended.
  void stop();

  /// The thread that moves bytes makes room for whoever asks.
  [[nodiscard]] Lock lock();
  /// Not held when another thread moves bytes at this moment.
  [[nodiscard]] Lock try_lock();

  // --- with the lock held ---

  /// Work that shall go on while the program computes: begun, ended.
  void begin_background() noexcept { ++background_; }
  void end_background() noexcept { --background_; }
  /// Wakes the thread where there is such work.
  void hand_over(Lock& held);
  /// Moves what can be moved now.
  void process();

  // --- without it ---

  /// Looks for what has come, unless the thread of the engine does. Never blocks.
  void poll();
  /// Moves bytes as they come. Blocks: until something has moved, `limit` has passed, or 100 ms.
  /// Does not block if the thread of the engine has moved something since the last call.
  void wait(std::chrono::nanoseconds limit);

 private:
  void run();
  /// False: no stream can move anything.
  bool advance_one();
  /// As `process`, but whoever wants the lock gets it in between.
  void process_beside_the_program(Lock& held);
  [[nodiscard]] bool has_thread_work() const;
  /// Waits for events and notes them. `limit` in milliseconds, 0: only looks.
  void note_events(Lock& held, std::chrono::nanoseconds limit);
  /// Where the thread waits for work, or for events.
  void wake_thread();
  void interrupt_events();
  void yield_to_program(Lock& held);

  native::FileDescriptor epoll_, wake_;
  std::mutex mutex_;
  std::binary_semaphore has_work_{0};
  bool is_woken_ = false;  // `has_work_` has been released, and the thread has not seen it
  ReadyStreams ready_;
  std::atomic<int> lock_wanted_ = 0;
  int background_ = 0;
  bool is_stopping_ = false;
  bool does_thread_wait_ = false;  // for events
  bool does_program_wait_ = false;
  bool has_thread_moved_ = false;  // something, which the thread of the program has not seen
  // The thread of the program moves the bytes by itself, since then.
  bool is_program_waiting_ = false;
  std::chrono::steady_clock::time_point last_visit_;
  native::OwningProcess owner_;
  std::unique_ptr<std::thread> thread_;
};

}  // namespace lockstep
