// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/detail/payload.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

/// @file
/// What the templates of `TaskPool` stand on.
///
/// Thread-safety: as `TaskPool`.

namespace lockstep {

struct TaskPoolOptions;

namespace workers {

/// @cond what the templates of `TaskPool` use

class PoolCore;
class PoolTask;
struct PoolTaskGroup;

/// One task, for whoever waits for it.
class LOCKSTEP_API TaskHandle {
 public:
  TaskHandle() = default;
  TaskHandle(std::shared_ptr<PoolCore> core, std::shared_ptr<PoolTask> task);

  [[nodiscard]] bool is_valid() const noexcept { return task_ != nullptr; }
  [[nodiscard]] bool wait_for(std::chrono::milliseconds limit) const;
  /// Until it is over.
  void wait() const;
  /// Of a task that is over. Throws: what the program shall catch, if it has no result.
  void check() const;
  /// What a worker process left.
  [[nodiscard]] PayloadReader result() const;
  bool cancel() const;

 private:
  std::shared_ptr<PoolCore> core_;
  std::shared_ptr<PoolTask> task_;
};

/// Where in a `map` a task belongs.
struct TaskPlace {
  std::shared_ptr<PoolTaskGroup> group;  // that is told when it is over
  std::optional<std::size_t> place;      // nothing: it is a task by itself
};

/// What worker processes call: the same address means the same code in all of them.
using TaskCode = void (*)(PayloadReader& arguments, PayloadWriter& result);

class LOCKSTEP_API TaskPort {
 public:
  explicit TaskPort(const TaskPoolOptions& options);
  ~TaskPort();
  TaskPort(const TaskPort&) = delete;
  TaskPort& operator=(const TaskPort&) = delete;

  [[nodiscard]] bool has_threads() const noexcept;
  [[nodiscard]] const TaskPoolOptions& options() const noexcept;
  [[nodiscard]] PayloadWriter new_payload() const;
  /// `arguments` begin with `code`. `closure`: the bytes of the function; `pointer`: what it points
  /// to, if it is a pointer.
  [[nodiscard]] TaskHandle start(TaskCode code, const void* pointer, std::string_view closure,
                                 const PayloadWriter& arguments, TaskPlace place);
  /// In a pool of threads.
  [[nodiscard]] TaskHandle start_here(std::function<void()> call, TaskPlace place);
  void check_has_threads() const;
  static void check_function(bool is_there);
  static void check_chunk_size(std::int64_t chunk_size, bool are_copyable);

  [[nodiscard]] static std::shared_ptr<PoolTaskGroup> new_group();
  /// Blocks: until one of them is over.
  [[nodiscard]] std::size_t wait_for_any(PoolTaskGroup& group);
  [[nodiscard]] PoolCore& core() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// @endcond

}  // namespace workers
}  // namespace lockstep
