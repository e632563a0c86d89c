// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/task_port.h>
#include <lockstep/workers/task_codec.h>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace lockstep {

/// The result of a task of a `TaskPool`, once there is one. It may outlive the pool. A task whose
/// future is dropped is done all the same.
///
/// Thread-safety: one thread at a time; different futures may be used by different threads.
template <class Result>
class TaskFuture {
 public:
  /// A future of nothing.
  TaskFuture() = default;

  /// Whether it has a result to give: not after `get`.
  [[nodiscard]] bool valid() const noexcept { return handle_.is_valid(); }

  /// The result; once. Tensors lie in the memory of the pool where there is room for them, also
  /// after the pool is closed.
  ///
  /// Blocks: until the task is over. Worker processes are given the `timeout` of the options for
  /// each task, and whoever waits for a thread that takes longer gets an error.
  /// Throws: `TaskError` when the task failed or its worker ended; `TaskCancelledError` when it
  /// never began; `WorkerFailedError` when the pool has no workers any more; `c10::Error` when the
  /// future has no result to give.
  Result get() {
    const auto handle = std::exchange(handle_, {});
    handle.wait();
    handle.check();
    if constexpr (!std::is_void_v<Result>) {
      if (cell_) return std::move(std::exchange(cell_, nullptr)->value());
      if constexpr (workers::TaskValue<Result>) {
        auto reader = handle.result();
        return workers::TaskCodec<Result>::read(reader);
      } else {
        throw std::logic_error("a thread has left no result");  // others cannot be submitted
      }
    }
  }

  /// Blocks: until the task is over, as `get`.
  void wait() const { handle_.wait(); }

  /// Whether the task is over. Blocks: at most `limit`.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds limit) const {
    return handle_.wait_for(limit);
  }

  /// Whether the task is over.
  [[nodiscard]] bool is_ready() const { return handle_.wait_for(std::chrono::milliseconds(0)); }

  /// True: the task had not begun, and never will; `get` throws `TaskCancelledError`.
  bool cancel() { return handle_.cancel(); }

  /// @cond for `TaskPool`
  using Cell = std::optional<std::conditional_t<std::is_void_v<Result>, bool, Result>>;
  TaskFuture(workers::TaskHandle handle, std::shared_ptr<Cell> cell)
      : handle_(std::move(handle)), cell_(std::move(cell)) {}
  /// @endcond

 private:
  workers::TaskHandle handle_;
  std::shared_ptr<Cell> cell_;  // in a pool of threads
};

}  // namespace lockstep
