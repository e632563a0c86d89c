// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "concurrency/deadline.h"
#include "native/posix/owning_process.h"
#include "workers/pool_jobs.h"
#include "workers/pool_memory.h"
#include "workers/pool_task.h"
#include "workers/pool_watch.h"
#include "workers/worker_host.h"

namespace lockstep::workers {

/// Workers that stay, and tasks for them, which lie in slots of shared memory. No thread stands in
/// between: workers take tasks from the slots themselves, and whoever submits or waits looks at
/// what has become of the others' tasks meanwhile.
///
/// Thread-safety: any thread of the process that made it. Owns: the workers, and the shared memory
/// together with the blocks that the program holds.
class PoolCore {
 public:
  enum class Submitted { Yes, Full, Closed, Lost };
  struct Counts {
    std::uint64_t submitted = 0;
    std::uint64_t finished = 0;
    std::uint64_t failed = 0;
    std::uint64_t cancelled = 0;
    std::uint64_t waiting = 0;
    std::uint64_t running = 0;
    std::size_t workers = 0;  ///< that work, or are about to
  };

  /// Throws: `std::system_error` when memory, a process or a thread cannot be had.
  explicit PoolCore(const PoolPlan& plan);
  /// What has not begun is cancelled, and what runs is ended with its worker.
  /// Blocks: as `WorkerHost::stop`.
  ~PoolCore();
  PoolCore(const PoolCore&) = delete;
  PoolCore& operator=(const PoolCore&) = delete;

  /// False in a process that the program has forked.
  [[nodiscard]] bool is_ours() const { return process_.is_current(); }
  [[nodiscard]] const std::shared_ptr<PoolMemory>& memory() const noexcept { return memory_; }

  /// `arguments`: for a pool of processes.
  /// Blocks: while the queue is full, at most `limit`.
  /// Throws: `std::system_error` when there is no memory for the arguments.
  [[nodiscard]] Submitted submit(const std::shared_ptr<PoolTask>& task,
                                 const PayloadWriter* arguments, std::chrono::milliseconds limit);
  /// Whether the task is over. Blocks: at most `limit`.
  [[nodiscard]] bool wait(const PoolTask& task, std::chrono::milliseconds limit);
  /// Takes a task of the group that is over; nothing when none was within `limit`.
  [[nodiscard]] std::optional<std::size_t> wait_for_any(PoolTaskGroup& group,
                                                        std::chrono::milliseconds limit);
  /// Whether nothing waits or runs any more. Blocks: at most `limit`.
  [[nodiscard]] bool drain(std::chrono::milliseconds limit);
  /// Whether the task had not begun, and never will.
  bool cancel(PoolTask& task);
  std::size_t cancel_all();
  /// Nothing can be submitted any more.
  void refuse_tasks();
  /// The same, and all that is not over is cancelled or lost.
  /// Blocks: as the destructor.
  void close() noexcept;

  /// A block for an argument; empty when too many are in use, and in a pool of threads.
  /// Throws: `std::system_error` when the memory cannot be had.
  [[nodiscard]] std::shared_ptr<PayloadMemory> take_block(std::size_t bytes);

  [[nodiscard]] Counts counts();
  [[nodiscard]] std::uint64_t restarts() const;
  /// Why no worker works any more.
  [[nodiscard]] std::optional<PoolLoss> loss();

 private:
  class Guard;

  void start_workers(const PoolPlan& plan, std::chrono::milliseconds timeout);
  [[nodiscard]] bool find_room(Guard& guard, std::chrono::milliseconds limit);
  void put_arguments(Guard& guard, PoolTask& task, const PayloadWriter& arguments,
                     std::uint64_t& word);
  template <class IsOver>
  bool wait_until(Guard& guard, std::uint64_t awaited, std::chrono::milliseconds limit,
                  IsOver is_over);
  void watch_once(Guard& guard, std::uint64_t awaited, const Deadline& deadline,
                  const std::function<bool()>& is_over);
  void wait_for_watcher(Guard& guard, const Deadline& deadline);
  void collect();
  void collect_slot(std::size_t slot);
  void look_after_workers();
  void conclude(PoolTask& task, TaskEnd end);
  void release(std::size_t slot);
  bool withdraw(std::size_t slot, TaskEnd end);
  void lose_all();
  [[nodiscard]] bool has_work() const;
  void take_back_open(TaskEnd end);
  void wake_waiting();

  native::OwningProcess process_;
  bool has_threads_;
  std::shared_ptr<PoolMemory> memory_;
  std::shared_ptr<PoolJobs> jobs_;  // with the threads
  std::mutex mutex_;                // guards what follows
  std::vector<std::size_t> free_slots_;
  std::vector<std::size_t> used_slots_;
  std::vector<std::shared_ptr<PoolTask>> retired_;  // destroyed after the lock is let go
  std::uint64_t next_sequence_ = 0;
  Counts counts_;
  bool is_refusing_ = false;
  bool is_closed_ = false;
  std::optional<PoolLoss> loss_;
  bool is_watched_ = false;   // a thread waits for the workers; others wait for it
  bool watches_any_ = false;  // and it wakes up for any task
  std::size_t others_ = 0;
  std::atomic<std::uint32_t> turns_{0};  // of the watching thread
  std::optional<PoolWatch> watch_;
  std::chrono::steady_clock::time_point last_look_;  // at the workers
  std::unique_ptr<WorkerHost> host_;                 // last: it runs on all of the above
};

}  // namespace lockstep::workers
