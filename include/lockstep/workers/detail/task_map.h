// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/task_call.h>
#include <lockstep/workers/detail/task_port.h>
#include <lockstep/workers/task_future.h>
#include <lockstep/workers/task_pool_options.h>
#include <lockstep/workers/task_results.h>

#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>
#include <variant>

/// @file
/// The templates behind `TaskPool::map`.
///
/// Thread-safety: as `TaskPool`.

namespace lockstep::workers {

/// @cond what the templates of `TaskPool` use

/// A result, also where there is none.
template <class Result>
using PlainResult = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
/// What a `map` gives.
template <bool kAreUnordered, class Result>
using MapValue = std::conditional_t<kAreUnordered, std::pair<std::size_t, PlainResult<Result>>,
                                    PlainResult<Result>>;

/// The items of a `map`, one after the other. `Range` is a reference for a range that is the
/// caller's.
template <class Range>
class MapItems {
 public:
  using Item = Travelling<std::ranges::range_reference_t<Range>>;

  explicit MapItems(Range&& range) : range_(std::forward<Range>(range)) {
    if constexpr (std::ranges::sized_range<Range>) {
      size_ = static_cast<std::size_t>(std::ranges::size(range_));
    }
  }

  [[nodiscard]] bool has_next() {
    if (!next_) next_.emplace(std::ranges::begin(range_));
    return *next_ != std::ranges::end(range_);
  }
  /// Comes after `has_next`.
  [[nodiscard]] Item next() {
    Item item(**next_);
    ++*next_;
    return item;
  }
  /// Nothing: the range cannot say it.
  [[nodiscard]] std::optional<std::size_t> size() const { return size_; }

 private:
  Range range_;
  std::optional<std::ranges::iterator_t<Range>> next_;
  std::optional<std::size_t> size_;
};

/// What the sources of a `map` have in common: they count items that are over.
template <bool kAreUnordered, class Range, class Result>
class CountingSource : public TaskSource<MapValue<kAreUnordered, Result>> {
 public:
  using Value = MapValue<kAreUnordered, Result>;
  using Item = typename MapItems<Range>::Item;

  [[nodiscard]] std::size_t taken() const override { return taken_; }
  [[nodiscard]] std::optional<std::size_t> size() const override { return items_.size(); }

 protected:
  CountingSource(std::shared_ptr<TaskPort> port, Range&& range)
      : port_(std::move(port)), items_(std::forward<Range>(range)) {}

  /// Tasks that may be under way.
  [[nodiscard]] std::size_t most() const {
    return static_cast<std::size_t>(port_->options().queue());
  }

  void count_one() {
    ++taken_;
    const auto& progress = port_->options().progress();
    if (progress) progress(taken_, items_.size().value_or(0));
  }

  static Value value_of([[maybe_unused]] std::size_t place, PlainResult<Result> plain) {
    if constexpr (kAreUnordered) {
      return {place, std::move(plain)};
    } else {
      return plain;
    }
  }
  /// The result of a task that is over.
  static Value value_of(std::size_t place, TaskFuture<Result> future) {
    if constexpr (std::is_void_v<Result>) {
      future.get();
      return value_of(place, std::monostate());
    } else {
      return value_of(place, future.get());
    }
  }

  std::shared_ptr<TaskPort> port_;
  MapItems<Range> items_;

 private:
  std::size_t taken_ = 0;
};

/// The tasks of one `map`, one an item.
template <bool kAreUnordered, class Range, class Function, class Result>
class MapSource final : public CountingSource<kAreUnordered, Range, Result> {
 public:
  using Base = CountingSource<kAreUnordered, Range, Result>;
  using typename Base::Item;
  using typename Base::Value;
  using Call = TaskCall<Function, Item>;

  MapSource(std::shared_ptr<TaskPort> port, Range&& range, Function function)
      : Base(std::move(port), std::forward<Range>(range)), function_(std::move(function)) {}
  ~MapSource() override {
    for (auto& [place, future] : futures_) future.cancel();
  }
  MapSource(const MapSource&) = delete;
  MapSource& operator=(const MapSource&) = delete;

  std::optional<Value> next() override {
    start_some();
    throw_if_refused();
    if (futures_.empty()) return std::nullopt;
    const auto place = kAreUnordered ? this->port_->wait_for_any(*group_) : futures_.begin()->first;
    // Over, whatever becomes of it.
    auto future = std::move(futures_.extract(place).mapped());
    future.wait();
    this->count_one();
    return Base::value_of(place, std::move(future));
  }

 private:
  void start_some() {
    while (futures_.size() + refused_.size() < this->most() && this->items_.has_next()) {
      auto item = this->items_.next();
      // Before the task: an item is begun once, whatever is thrown.
      const auto place = started_++;
      try {
        futures_.emplace(place, Call::start(*this->port_, {kAreUnordered ? group_ : nullptr, place},
                                            function_, std::move(item)));
      } catch (...) {
        refused_.emplace(place, std::current_exception());
      }
    }
  }

  // An item that could not be submitted is thrown at its turn, as one that fails.
  void throw_if_refused() {
    if (refused_.empty()) return;
    const auto first = refused_.begin();
    const bool is_its_turn =
        kAreUnordered || futures_.empty() || first->first < futures_.begin()->first;
    if (!is_its_turn) return;
    const auto error = refused_.extract(first).mapped();
    this->count_one();
    std::rethrow_exception(error);
  }

  Function function_;
  std::shared_ptr<PoolTaskGroup> group_ = TaskPort::new_group();
  std::map<std::size_t, TaskFuture<Result>> futures_;  // that have not been taken
  std::map<std::size_t, std::exception_ptr> refused_;  // why items were not submitted
  std::size_t started_ = 0;
};

/// @endcond

}  // namespace lockstep::workers
