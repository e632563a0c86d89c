// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>
#include <lockstep/core/export.h>
#include <lockstep/workers/detail/task_call.h>
#include <lockstep/workers/detail/task_map_chunks.h>
#include <lockstep/workers/task_cancelled_error.h>
#include <lockstep/workers/task_error.h>
#include <lockstep/workers/task_future.h>
#include <lockstep/workers/task_pool_options.h>
#include <lockstep/workers/task_pool_statistics.h>
#include <lockstep/workers/task_results.h>
#include <lockstep/workers/tensor_codec.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep {

/// Workers that stay, in processes or threads, and do tasks:
///
///     lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(2));
///     auto future = pool.submit([](torch::Tensor x) { return x.sum(); }, x);
///     torch::Tensor sum = future.get();
///
/// The processes are forked when the pool is made. What the program has then, the workers have too;
/// what it makes later travels as an argument. So a function for `submit` and `map` captures
/// nothing, or trivially copyable values, which travel as bytes: a pointer or a reference among
/// them would lead to memory that a worker does not have. A reference to a local variable is
/// refused when the task is submitted. Arguments and results are tensors, trivially copyable types,
/// `std::string`, vectors, arrays, optionals, pairs, tuples and maps of these, paths, and what has
/// a `workers::ResultCodec`. The same holds for threads, so that `kind` can be changed;
/// `submit_to_thread` takes everything.
///
/// Tensors: dense, on the CPU, without `requires_grad`. An argument costs one copy, or none if it
/// lies in a tensor of `empty`, or in a result. It belongs to the task, which must not keep it. A
/// tensor that is not copied is shared: a task that writes to it writes to the program's tensor,
/// and the program must not write to it before the task is over. A result costs one copy, in the
/// worker, or none if it lies in a tensor of `task_output`. In threads, nothing is copied, so all
/// tensors are shared.
///
/// A worker that dies costs the task that it had: its future throws a `TaskError`, which names the
/// worker, and how it ended; another worker takes the place.
///
/// Build it outside of parallel regions, before threads that hold locks of the program's.
///
/// Thread-safety: any thread of the process that made it may call it, but for the destructor.
/// Owns: the workers, and the memory in which tensors lie, as long as one of them lives.
class LOCKSTEP_API TaskPool {
 public:
  /// Throws: `c10::Error` for bad options; `std::system_error` when there is no memory, process or
  /// thread to be had.
  explicit TaskPool(TaskPoolOptions options);
  /// Cancels what has not begun, and ends the workers. Tasks that run have less than a second in
  /// processes, and 2 s in threads; a thread that is stuck then is left alone.
  /// Blocks: a few milliseconds as a rule, at most as long as that, and on a busy machine until
  /// killed processes have had a core to end on (31 s at most).
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  /// Has `function(arguments...)` called in a worker.
  ///
  /// Blocks: while the queue is full, as the options say.
  /// Throws: `TaskQueueFullError` when it stays full; `WorkerFailedError` when there are no workers
  /// any more; `std::system_error` when there is no memory; `c10::Error` when the pool is closed,
  /// for a null pointer, for a tensor that cannot travel, for a function that captures a reference
  /// to a local variable, for code that was loaded after the pool was made, and in a fork of the
  /// program.
  template <class Function, class... Arguments>
  auto submit(Function&& function, Arguments&&... arguments) {
    using Call = workers::TaskCall<std::decay_t<Function>, workers::Travelling<Arguments>...>;
    if constexpr (Call::is_possible()) {
      return Call::start(*port_, {}, std::forward<Function>(function),
                         workers::Travelling<Arguments>(std::forward<Arguments>(arguments))...);
    }
  }

  /// The same for a pool of threads, and any function, arguments and result that can be moved.
  template <class Function, class... Arguments>
  auto submit_to_thread(Function&& function, Arguments&&... arguments) {
    port_->check_has_threads();
    return workers::start_here(*port_, {}, std::forward<Function>(function),
                               std::forward<Arguments>(arguments)...);
  }

  /// Results of `function(item)` in the order of the range, which is read as workers need items.
  /// A range that is an lvalue must outlive the results. As many tasks as the queue holds are under
  /// way.
  ///
  /// With a `chunk_size`, so many items are one task, which saves most of the cost of a task where
  /// an item takes a few microseconds. `timeout` and `attempts` count for the whole of it. If it
  /// fails, its items are done again, each alone: an item must bear being done twice, and the error
  /// is that of the item at fault. In threads, a chunk that takes too long fails as a whole.
  ///
  /// Throws: what `submit` throws, at the turn of the item that could not be submitted;
  /// `c10::Error` at once for a `chunk_size` below 1, or above 1 for items that cannot be copied.
  template <std::ranges::input_range Range, class Function>
  auto map(Range&& range, Function function, std::int64_t chunk_size = 1) {
    using Call =
        workers::TaskCall<Function, workers::Travelling<std::ranges::range_reference_t<Range>>>;
    if constexpr (Call::is_possible()) {
      return workers::results_of<false, Call>(port_, std::forward<Range>(range),
                                              std::move(function), chunk_size);
    }
  }

  /// The same in the order in which they are finished: pairs of the place in the range, from 0, and
  /// the result. Those of a chunk come one behind the other.
  template <std::ranges::input_range Range, class Function>
  auto map_unordered(Range&& range, Function function, std::int64_t chunk_size = 1) {
    using Call =
        workers::TaskCall<Function, workers::Travelling<std::ranges::range_reference_t<Range>>>;
    if constexpr (Call::is_possible()) {
      return workers::results_of<true, Call>(port_, std::forward<Range>(range), std::move(function),
                                             chunk_size);
    }
  }

  /// A tensor in the pool's memory, which is not initialised; in a pool of threads, any tensor.
  /// Throws: `c10::Error` for a device, layout, memory format or gradient, for pinned memory, and
  /// when as many are alive as `TaskPoolOptions::leases` and 64 more.
  [[nodiscard]] at::Tensor empty(at::IntArrayRef sizes, at::TensorOptions options = {});

  /// Cancels all tasks that have not begun. Returns how many.
  std::size_t cancel_all();

  /// Waits until all tasks are over, and ends the workers. Nothing can be submitted from the start
  /// of the wait on. Returns false when `limit` was too short: then tasks were cancelled or ended.
  /// Blocks: at most `limit`, and as the destructor.
  bool close(std::chrono::milliseconds limit);

  /// Tasks and workers so far.
  [[nodiscard]] TaskPoolStatistics statistics();

 private:
  std::shared_ptr<workers::TaskPort> port_;
};

/// In a task: a tensor for its result, which is not initialised. If the task returns it, in a
/// worker process, and nothing else leads to it, the program gets it without a copy. Elsewhere, it
/// is any tensor.
///
/// Thread-safety: only the thread of the task may call it.
/// Throws: `c10::Error` for a device, layout, memory format or gradient, and for pinned memory.
[[nodiscard]] LOCKSTEP_API at::Tensor task_output(at::IntArrayRef sizes,
                                                  at::TensorOptions options = {});

}  // namespace lockstep
