// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace lockstep {

/// @cond what `TaskResults` draws from
namespace workers {

/// The tasks of one `map`, begun a few at a time.
template <class Value>
struct TaskSource {
  virtual ~TaskSource() = default;
  /// The next result; nothing behind the last. An item that fails is thrown and counts as taken.
  virtual std::optional<Value> next() = 0;
  [[nodiscard]] virtual std::size_t taken() const = 0;
  [[nodiscard]] virtual std::optional<std::size_t> size() const = 0;
};

}  // namespace workers
/// @endcond

/// Results of `TaskPool::map`, which come one by one while workers are at the next items:
///
///     for (torch::Tensor& picture : pool.map(paths, decode)) use(picture);
///
/// An item that fails, or cannot be submitted, is thrown at its turn; `next` may be called again
/// for those behind it. When this object goes, items that have not begun are cancelled.
///
/// Thread-safety: none.
/// Throws: as `TaskFuture::get`.
template <class Value>
class TaskResults {
 public:
  /// For `for`; goes once over the results.
  class Iterator {
   public:
    using value_type = Value;                           ///< a result
    using difference_type = std::ptrdiff_t;             ///< as iterators have it
    using iterator_category = std::input_iterator_tag;  ///< goes once over the results
    using pointer = Value*;                             ///< to a result
    using reference = Value&;                           ///< to a result

    /// Behind the last result.
    Iterator() = default;
    /// The result, until the next increment.
    Value& operator*() const { return *results_->current_; }
    /// Its members.
    Value* operator->() const { return &*results_->current_; }
    /// Takes the next result.
    Iterator& operator++() {
      results_->current_ = results_->next();
      if (!results_->current_) results_ = nullptr;
      return *this;
    }
    /// The same.
    void operator++(int) { ++*this; }
    /// Whether both are behind the last result.
    bool operator==(const Iterator& other) const { return results_ == other.results_; }

   private:
    friend class TaskResults;
    explicit Iterator(TaskResults* results) : results_(results) {}
    TaskResults* results_ = nullptr;
  };

  /// The next result; nothing behind the last.
  /// Blocks: until there is one.
  std::optional<Value> next() { return source_->next(); }

  /// All that are left.
  /// Blocks: until there are all.
  std::vector<Value> to_vector() {
    std::vector<Value> values;
    while (auto value = next()) values.push_back(*std::move(value));
    return values;
  }

  /// Items that are over: taken from here, or thrown.
  [[nodiscard]] std::size_t taken() const { return source_->taken(); }
  /// All items, if the range can say it.
  [[nodiscard]] std::optional<std::size_t> size() const { return source_->size(); }

  /// Takes the first result that is left.
  /// Blocks: until there is one.
  Iterator begin() { return ++Iterator(this); }
  /// Behind the last.
  Iterator end() { return Iterator(); }

  /// @cond for `TaskPool`
  explicit TaskResults(std::unique_ptr<workers::TaskSource<Value>> source)
      : source_(std::move(source)) {}
  /// @endcond

 private:
  std::unique_ptr<workers::TaskSource<Value>> source_;
  std::optional<Value> current_;
};

}  // namespace lockstep
