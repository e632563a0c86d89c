// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "native/posix/owning_process.h"

namespace lockstep::workers {

/// Calls in threads of this process, begun in the order in which they came, with a bounded queue.
///
/// Thread-safety: any thread, but for the destructor.
/// Owns: the threads. One that is stuck when the queue goes keeps what it uses.
class ThreadQueue {
 public:
  enum class Pushed { Yes, Full, Closed };
  struct Failed {
    std::string name;
    std::string type;
    std::string message;
    std::exception_ptr cause;
    std::uint64_t others = 0;  ///< that failed until it was taken
  };
  struct Counts {
    std::uint64_t submitted = 0;
    std::uint64_t finished = 0;
    std::uint64_t failed = 0;
    std::uint64_t waiting = 0;
    std::uint64_t running = 0;
  };

  /// Throws: `std::system_error` when a thread cannot be had.
  ThreadQueue(std::size_t threads, std::size_t capacity);
  /// Calls that have not begun never do.
  /// Blocks: for calls that have begun, at most `kPatience`; then their threads are left alone.
  ~ThreadQueue();
  ThreadQueue(const ThreadQueue&) = delete;
  ThreadQueue& operator=(const ThreadQueue&) = delete;

  static constexpr std::chrono::seconds kPatience{2};

  /// False in a process that the program has forked: the threads are not there.
  [[nodiscard]] bool is_ours() const { return process_.is_current(); }

  /// Blocks: while there is no room, at most `limit`.
  [[nodiscard]] Pushed push(std::string name, std::function<void()> call,
                            std::chrono::milliseconds limit);
  /// The first call that failed since the last question.
  [[nodiscard]] std::optional<Failed> take_failure();
  /// Whether all calls are over. Blocks: at most `limit`.
  [[nodiscard]] bool drain(std::chrono::milliseconds limit) const;
  void refuse_calls();
  /// Names of calls that are not over, the running ones first.
  [[nodiscard]] std::vector<std::string> unfinished() const;
  [[nodiscard]] Counts counts() const;

 private:
  struct Shared;

  static void serve(Shared& shared);
  void start_all(std::size_t threads);
  void stop() noexcept;

  native::OwningProcess process_;
  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::workers
