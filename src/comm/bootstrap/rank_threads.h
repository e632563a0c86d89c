// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "native/posix/owning_process.h"

namespace lockstep {

/// Threads that stay and run one function at a time, all together.
///
/// Thread-safety: one thread at a time, none of these.
class RankThreads {
 public:
  /// Called with the thread's number, from 0. Must not throw.
  using Task = std::function<void(int)>;

  /// Throws: `std::system_error` where the system gives no thread.
  explicit RankThreads(int count);
  ~RankThreads();
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;

  /// Runs `task` once in each thread. Blocks: the calling thread, until all have returned.
  void run(const Task& task);
  /// False in a fork of the process that made them: there are no threads there.
  [[nodiscard]] bool are_there() const noexcept { return owner_.is_current(); }

 private:
  void work(int number);
  void stop() noexcept;

  native::OwningProcess owner_;
  const Task* task_ = nullptr;           // of the round
  bool is_over_ = false;                 // tells the threads of the last round to end
  std::atomic<std::uint32_t> round_{0};  // after it: task_ and is_over_ of that round
  std::atomic<std::uint32_t> busy_{0};   // threads that have not finished the round
  std::vector<std::thread> threads_;
};

}  // namespace lockstep
