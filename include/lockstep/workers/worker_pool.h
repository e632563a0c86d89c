// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/result_codec.h>
#include <lockstep/workers/task_error.h>
#include <lockstep/workers/worker_pool_options.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep {

/// Applies a function to many items in worker processes or threads: for preprocessing outside of a
/// loader.
///
///     lockstep::WorkerPool pool(lockstep::WorkerPoolOptions().workers(4));
///     std::vector<std::uint64_t> sizes = pool.map(paths, [](const std::string& path) {
///       return shrink(path);
///     });
///
/// Workers are made for each call, so the function sees everything as it is at that moment; what it
/// changes in a worker process stays there. Worker threads share one function. Results are numbers
/// and other trivially copyable types, `std::string`, vectors of these, what has a `ResultCodec`,
/// or nothing. Build and call it outside of parallel regions.
///
/// Blocks: the calling thread, until all items are over.
/// Thread-safety: none.
/// Throws: `c10::Error` for bad options; `std::system_error` when there is no memory;
/// `WorkerFailedError` when there are no workers; `TaskError` for the first item that failed, after
/// all others are over.
class LOCKSTEP_API WorkerPool {
 public:
  /// A pool of so many workers, which are made in each call.
  /// Throws: `c10::Error` for bad options.
  explicit WorkerPool(WorkerPoolOptions options);

  /// Results in the order of the items.
  template <class Item, class Function>
  auto map(const std::vector<Item>& items, Function function) {
    if constexpr (takes_item<Function, Item>()) {
      using Result = ResultOf<Function, Item>;
      if constexpr (std::is_void_v<Result>) {
        run<Result>(items, function, [](std::size_t) {});
      } else {
        std::vector<std::optional<Result>> found(items.size());
        run<Result>(items, function,
                    [&](std::size_t item, Result result) { found[item] = std::move(result); });
        std::vector<Result> results;
        results.reserve(found.size());
        for (auto& result : found) results.push_back(*std::move(result));
        return results;
      }
    }
  }

  /// Gives each result to `take(item, result)` in the calling thread, in the order of the items as
  /// soon as those before it are over. Items that failed are left out, and thrown at the end.
  template <class Item, class Function, class Take>
  void map_in_order(const std::vector<Item>& items, Function function, Take take) {
    if constexpr (takes_item<Function, Item>()) {
      run<ResultOf<Function, Item>>(items, function, take, true);
    }
  }

  /// The same in the order in which they are finished.
  template <class Item, class Function, class Take>
  void map_unordered(const std::vector<Item>& items, Function function, Take take) {
    if constexpr (takes_item<Function, Item>()) {
      run<ResultOf<Function, Item>>(items, function, take);
    }
  }

 private:
  // Says in one sentence what is wrong, and keeps the compiler from saying more.
  template <class Function, class Item>
  static constexpr bool takes_item() {
    constexpr bool takes = std::is_invocable_v<Function&, const Item&>;
    static_assert(takes,
                  "WorkerPool: the function is called with one item, as a constant reference");
    return takes;
  }

  template <class Function, class Item>
  using ResultOf = std::remove_cvref_t<std::invoke_result_t<Function&, const Item&>>;

  template <class Result, class Item, class Function, class Take>
  void run(const std::vector<Item>& items, Function& function, Take&& take, bool in_order = false) {
    // The workers' own: a thread may be at an item still when `take` has thrown.
    struct Task {
      std::vector<Item> items;
      Function function;
    };
    const auto task = std::make_shared<Task>(Task{items, function});
    static_assert(
        std::is_void_v<Result> || workers::ResultType<Result>,
        "WorkerPool: a result is trivially copyable, a std::string, a vector of these, or "
        "nothing; for a type of your own, specialise lockstep::workers::ResultCodec");
    if constexpr (std::is_void_v<Result>) {
      apply(
          items.size(),
          [task](std::size_t item) {
            task->function(task->items[item]);
            return std::string();
          },
          [&](std::size_t item, std::string_view) { take(item); }, in_order);
    } else if constexpr (workers::ResultType<Result>) {
      apply(
          items.size(),
          [task](std::size_t item) {
            return workers::ResultCodec<Result>::to_bytes(task->function(task->items[item]));
          },
          [&](std::size_t item, std::string_view bytes) {
            take(item, workers::ResultCodec<Result>::from_bytes(bytes));
          },
          in_order);
    }
  }

  void apply(std::size_t count, const std::function<std::string(std::size_t)>& function,
             const std::function<void(std::size_t, std::string_view)>& take, bool in_order);

  WorkerPoolOptions options_;
};

}  // namespace lockstep
