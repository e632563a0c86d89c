// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>
#include <lockstep/workers/task_cancelled_error.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

namespace lockstep {

/// A task of a `BackgroundTasks` threw.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API BackgroundTaskError : public c10::DistError {
 public:
  /// What is known of it; see the members of the same names.
  struct Context {
    std::string task;            ///< `task()`
    std::string exception_type;  ///< `exception_type()`
    std::string message;         ///< `original_message()`
    std::exception_ptr cause;    ///< `cause()`
    std::uint64_t others = 0;    ///< `others()`
  };

  /// `what()` becomes "background task 'TASK' failed: TYPE: MESSAGE", and how many others did.
  explicit BackgroundTaskError(Context context);

  /// The name with which it was submitted.
  [[nodiscard]] const std::string& task() const noexcept { return context_.task; }
  /// Type of what it threw, as "std::runtime_error".
  [[nodiscard]] const std::string& exception_type() const noexcept {
    return context_.exception_type;
  }
  /// What the exception said.
  [[nodiscard]] const std::string& original_message() const noexcept { return context_.message; }
  /// The exception.
  [[nodiscard]] const std::exception_ptr& cause() const noexcept { return context_.cause; }
  /// Other tasks that failed until this was thrown, which are not thrown.
  [[nodiscard]] std::uint64_t others() const noexcept { return context_.others; }

 private:
  Context context_;
};

/// What a `BackgroundTasks` is told.
///
/// Thread-safety: a value.
struct LOCKSTEP_API BackgroundTasksOptions {
  /// Threads, 1 to 64. With one, a task begins when the task before it is over.
  TORCH_ARG(std::int64_t, threads) = 1;
  /// Tasks that may wait, 1 to 1048576.
  TORCH_ARG(std::int64_t, queue) = 64;
  /// When the queue is full, `submit` drops its task instead of waiting: for what the next one
  /// makes superfluous, as metrics.
  TORCH_ARG(bool, drop_when_full) = false;
  /// The longest that `submit` waits for room in the queue; then it throws `TaskQueueFullError`.
  TORCH_ARG(std::chrono::milliseconds, submit_timeout) = std::chrono::minutes(10);
  /// The longest that `close` and the destructor wait for the tasks.
  TORCH_ARG(std::chrono::milliseconds, close_timeout) = std::chrono::seconds(60);
};

/// What has become of the tasks of a `BackgroundTasks`.
///
/// Thread-safety: a value.
struct LOCKSTEP_API BackgroundTasksStatistics {
  std::uint64_t submitted = 0;  ///< tasks that were taken
  std::uint64_t finished = 0;   ///< without an exception
  std::uint64_t failed = 0;     ///< with one
  std::uint64_t dropped = 0;    ///< since the queue was full
  std::uint64_t waiting = 0;    ///< for a thread
  std::uint64_t running = 0;    ///< a thread is at them
};

/// Does in threads of the program what a training loop must not wait for:
///
///     lockstep::BackgroundTasks tasks(lockstep::BackgroundTasksOptions().threads(1).queue(64));
///     tasks.submit("metrics", [line] { append(line); });
///     tasks.close();
///
/// Tasks begin in the order in which they were submitted. A task that throws does not keep the
/// others from being done. A task that frees tensors of a GPU, or calls collectives, does so in
/// another thread than the loop.
///
/// In a fork of the program, the copy of this object does nothing: there are no threads. A task
/// that runs at the moment of the fork runs in the program alone.
///
/// Thread-safety: any thread may call it, but for the destructor. A task may call `submit`; a task
/// that waits there for room may wait for itself.
/// Owns: the threads, and the tasks until they are over.
class LOCKSTEP_API BackgroundTasks {
 public:
  /// Throws: `c10::Error` for bad options; `std::system_error` when a thread cannot be had.
  explicit BackgroundTasks(const BackgroundTasksOptions& options = {});
  /// Does what was submitted, as `close`. What has failed, and what is not over in `close_timeout`,
  /// is logged; nothing is thrown.
  /// Blocks: at most `close_timeout` and 2 s. A thread that is stuck then is left alone.
  ~BackgroundTasks();
  BackgroundTasks(const BackgroundTasks&) = delete;
  BackgroundTasks& operator=(const BackgroundTasks&) = delete;

  /// Has `task` called, which is `name` in messages. Returns false when it was dropped.
  ///
  /// Blocks: while the queue is full, as the options say.
  /// Throws: `BackgroundTaskError` when a task before has failed, once for it: the new task is not
  /// taken then; `TaskQueueFullError` when there is no room in time; `c10::Error` after `close`, in
  /// a fork of the program, and for an empty function.
  bool submit(std::string name, std::function<void()> task);

  /// Waits until all tasks are over; nothing can be submitted any more.
  /// Blocks: at most `close_timeout`.
  /// Throws: `BackgroundTaskError` when a task has failed since the last that was thrown;
  /// `TaskCancelledError` with the names of what is not over in time, which goes on until the
  /// object is destroyed, and with the failure, if there is one, too.
  void close();

  /// Tasks so far.
  [[nodiscard]] BackgroundTasksStatistics statistics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
