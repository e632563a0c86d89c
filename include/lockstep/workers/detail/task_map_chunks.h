// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/task_call.h>
#include <lockstep/workers/detail/task_map.h>
#include <lockstep/workers/detail/task_port.h>
#include <lockstep/workers/task_cancelled_error.h>
#include <lockstep/workers/task_error.h>
#include <lockstep/workers/task_future.h>
#include <lockstep/workers/task_results.h>
#include <lockstep/workers/worker_failed_error.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

/// @file
/// The templates behind `TaskPool::map` with several items a task.
///
/// Thread-safety: as `TaskPool`.

namespace lockstep::workers {

/// @cond what the templates of `TaskPool` use

/// A task of several items. In a worker.
template <class Function, class Item, class Result>
struct ChunkFunction {
  using OfEachItem = Function;

  auto operator()(std::vector<Item> items) {
    if constexpr (std::is_void_v<Result>) {
      for (std::size_t at = 0; at < items.size(); ++at) call(items, at);
    } else {
      std::vector<Result> results;
      results.reserve(items.size());
      for (std::size_t at = 0; at < items.size(); ++at) results.push_back(call(items, at));
      return results;
    }
  }

  Function function;

 private:
  // Each with a function of its own, as a task of one item. An item of its own type, too: what a
  // vector of bool has is no bool.
  Result call(std::vector<Item>& items, std::size_t at) {
    Function own = function;
    Item item = std::move(items[at]);
    return std::invoke(own, std::move(item));
  }
};

/// The tasks of one `map`, each of several items. Those of a task that fails are done again, each
/// alone: so the error is that of the item at fault, and the others have their results.
template <bool kAreUnordered, class Range, class Function, class Result>
class ChunkedMapSource final : public CountingSource<kAreUnordered, Range, Result> {
 public:
  using Base = CountingSource<kAreUnordered, Range, Result>;
  using typename Base::Item;
  using typename Base::Value;
  using Call = TaskCall<ChunkFunction<Function, Item, Result>, std::vector<Item>>;

  ChunkedMapSource(std::shared_ptr<TaskPort> port, Range&& range, Function function,
                   std::size_t chunk_size)
      : Base(std::move(port), std::forward<Range>(range)),
        function_(std::move(function)),
        chunk_size_(chunk_size) {
    check_function(function_);
  }
  ~ChunkedMapSource() override {
    for (auto& [first, chunk] : chunks_) chunk.future.cancel();
    for (auto& single : singles_) single.future.cancel();
  }
  ChunkedMapSource(const ChunkedMapSource&) = delete;
  ChunkedMapSource& operator=(const ChunkedMapSource&) = delete;

  std::optional<Value> next() override {
    start_some();
    if (!has_current() && !take_chunk()) return std::nullopt;
    if (has_failed()) return take_single();
    const auto at = at_++;
    this->count_one();
    if (current_.error) std::rethrow_exception(current_.error);
    if (current_.timed_out) throw TaskError(first_ + at, *current_.timed_out);
    if constexpr (std::is_void_v<Result>) {
      return Base::value_of(first_ + at, std::monostate());
    } else {
      return Base::value_of(first_ + at, PlainResult<Result>(std::move((*current_.results)[at])));
    }
  }

 private:
  using Single = TaskCall<Function, Item>;
  using Results =
      std::conditional_t<std::is_void_v<Result>, std::monostate, std::vector<PlainResult<Result>>>;

  struct Chunk {
    std::vector<Item> items;  // for those that are to be done alone
    TaskFuture<typename Call::Result> future;
    // When it is over, at most one of these:
    std::optional<Results> results;
    std::exception_ptr error;  // of all its items
    std::optional<WorkerFailedError::Context> timed_out;
  };
  struct SingleItem {
    TaskFuture<Result> future;
    std::exception_ptr error;  // it could not be submitted
  };

  [[nodiscard]] bool has_current() const { return at_ < current_.items.size(); }
  // Its items are done alone.
  [[nodiscard]] bool has_failed() const {
    return has_current() && !current_.results && !current_.error && !current_.timed_out;
  }

  void start_some() {
    // Where a chunk has failed, its items need a place in the queue.
    const auto most = this->most() - (has_failed() ? 1 : 0);
    while (chunks_.size() < most && fill_next()) start_next();
  }

  // What the range throws leaves the items before it here.
  bool fill_next() {
    while (filling_.size() < chunk_size_ && this->items_.has_next()) {
      filling_.push_back(this->items_.next());
    }
    return !filling_.empty();
  }

  void start_next() {
    Chunk chunk;
    chunk.items = std::exchange(filling_, {});
    const auto first = started_;
    started_ += chunk.items.size();
    try {
      chunk.future = Call::start(*this->port_, {kAreUnordered ? group_ : nullptr, first},
                                 {function_}, chunk.items);
    } catch (...) {
      // Each of its items says why, at its turn.
      if (kAreUnordered) refused_.push_back(first);
    }
    chunks_.emplace(first, std::move(chunk));
  }

  // Waits for the next chunk; false when there is none.
  bool take_chunk() {
    if (chunks_.empty()) return false;
    first_ = next_first();
    current_ = std::move(chunks_.extract(first_).mapped());
    at_ = 0;
    if (!current_.future.valid()) return true;
    current_.future.wait();
    try {
      if constexpr (std::is_void_v<Result>) {
        current_.future.get();
        current_.results.emplace();
      } else {
        current_.results = current_.future.get();
      }
    } catch (const TaskError& error) {
      // A thread that took too long is still at these items.
      if (this->port_->has_threads() && error.failure() == WorkerFailure::TimedOut) {
        current_.timed_out.emplace(WorkerFailedError::Context{
            error.failure(), error.worker(), error.pid(), error.exit_status(), error.signal(),
            error.original_message(), error.exception_type()});
      }
    } catch (const WorkerFailedError&) {
      current_.error = std::current_exception();  // the pool has no workers
    } catch (const TaskCancelledError&) {
      current_.error = std::current_exception();
    } catch (...) {
      // A result cannot be read: only its item shall have the error.
    }
    return true;
  }

  std::size_t next_first() {
    if (!kAreUnordered) return chunks_.begin()->first;
    if (refused_.empty()) return this->port_->wait_for_any(*group_);
    const auto first = refused_.back();
    refused_.pop_back();
    return first;
  }

  // Begins as many items of the chunk that has failed as there is room for: one at least.
  void start_singles() {
    while (chunks_.size() + singles_.size() < this->most()) {
      const auto at = at_ + singles_.size();
      if (at == current_.items.size()) return;
      SingleItem single;
      Item item = std::move(current_.items[at]);
      try {
        single.future =
            Single::start(*this->port_, {nullptr, first_ + at}, function_, std::move(item));
      } catch (...) {
        single.error = std::current_exception();
      }
      singles_.push_back(std::move(single));
    }
  }

  Value take_single() {
    start_singles();
    auto single = std::move(singles_.front());
    singles_.pop_front();
    const auto place = first_ + at_++;
    if (!single.error) single.future.wait();
    this->count_one();
    if (single.error) std::rethrow_exception(single.error);
    return Base::value_of(place, std::move(single.future));
  }

  Function function_;
  std::size_t chunk_size_;
  std::shared_ptr<PoolTaskGroup> group_ = TaskPort::new_group();
  std::vector<Item> filling_;            // of the next chunk
  std::map<std::size_t, Chunk> chunks_;  // by the place of their first item
  std::vector<std::size_t> refused_;     // of these, where no order says which is next
  std::size_t started_ = 0;              // items
  Chunk current_;                        // whose results are given
  std::size_t first_ = 0;                // its place
  std::size_t at_ = 0;                   // its next item
  std::deque<SingleItem> singles_;       // if it has failed: its next items, begun alone
};

/// Whether copies can be made, also of what a container holds.
template <class T>
struct IsCopyable : std::bool_constant<std::copy_constructible<T>> {};
template <class T>
requires requires {
  typename T::value_type;
}
struct IsCopyable<T>
    : std::bool_constant<std::copy_constructible<T> && IsCopyable<typename T::value_type>::value> {
};

template <bool kAreUnordered, class Call, class Range, class Function>
auto results_of(std::shared_ptr<TaskPort> port, Range&& range, Function function,
                std::int64_t chunk_size) {
  using Result = typename Call::Result;
  using Value = MapValue<kAreUnordered, Result>;
  // A chunk that fails needs its items once more.
  constexpr bool kIsCopyable = IsCopyable<typename MapItems<Range>::Item>::value;
  TaskPort::check_chunk_size(chunk_size, kIsCopyable);
  std::unique_ptr<TaskSource<Value>> source;
  if constexpr (kIsCopyable) {
    if (chunk_size > 1) {
      source = std::make_unique<ChunkedMapSource<kAreUnordered, Range, Function, Result>>(
          port, std::forward<Range>(range), function, static_cast<std::size_t>(chunk_size));
    }
  }
  if (source == nullptr) {
    source = std::make_unique<MapSource<kAreUnordered, Range, Function, Result>>(
        std::move(port), std::forward<Range>(range), std::move(function));
  }
  return TaskResults<Value>(std::move(source));
}

/// @endcond

}  // namespace lockstep::workers
