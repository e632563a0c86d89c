// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

namespace lockstep {

template <typename T>
class Future;

namespace detail {
template <typename T>
struct IsFuture : std::false_type {};
template <typename T>
struct IsFuture<Future<T>> : std::true_type {
  using Value = T;
};
}  // namespace detail

/// A value that is there when collectives are complete and what follows them has been computed.
/// Made by `Work::then`; communication hooks return one.
///
/// Functions given to `then` run once, in the first `wait()`, in the thread that waits. So the
/// collectives that they start are started in the order of the waits, which is the same on all
/// ranks. If they ran as soon as data has come, each rank would start them in another order.
///
/// A small handle; copies refer to the same value. Thread-safety: as the group's, one thread at a
/// time.
template <typename T>
class Future {
 public:
  /// The limit of one wait; without one, the time-out of the call holds.
  using Timeout = std::optional<std::chrono::milliseconds>;
  /// The type of the value: T; an empty one for `Future<void>`.
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

  /// `compute` is called once, in the first `wait`; what it throws is thrown by each.
  /// `is_ready`: whether it would not wait for other ranks. Never blocks.
  Future(std::function<Value(Timeout)> compute, std::function<bool()> is_ready)
      : state_(std::make_shared<State>(
            State{std::move(compute), std::move(is_ready), std::nullopt, nullptr})) {}

  /// Returns the value, after waiting and computing what is still to come.
  ///
  /// Blocks: the calling thread, as `Work::wait`. `timeout` limits each wait for a collective.
  /// Throws: what the collectives throw, and what the functions given to `then` throw.
  const Value& wait(Timeout timeout = std::nullopt) const {
    State& state = *state_;
    if (state.error) std::rethrow_exception(state.error);
    if (!state.value) {
      try {
        state.value.emplace(state.compute(timeout));
      } catch (...) {
        state.error = std::current_exception();
        throw;
      }
      state.compute = nullptr;  // frees what it holds
      state.is_ready = nullptr;
    }
    return *state.value;
  }

  /// True when `wait()` would wait for no other rank. Never blocks, and computes nothing: what a
  /// function given to `then` starts itself is not known before it has run, which counts as not
  /// completed.
  [[nodiscard]] bool is_completed() const {
    return state_->value.has_value() || state_->error || state_->is_ready();
  }

  /// The future of `next(value)`. If `next` returns a future, the future of its value.
  template <typename F>
  [[nodiscard]] auto then(F next) const {
    const auto call = [next = std::move(next)](const Value& value) mutable -> decltype(auto) {
      if constexpr (std::is_void_v<T>) {
        return next();
      } else {
        return next(value);
      }
    };
    return chain(call);
  }

 private:
  struct State {
    std::function<Value(Timeout)> compute;
    std::function<bool()> is_ready;
    std::optional<Value> value;
    std::exception_ptr error;
  };

  template <typename F>
  auto chain(F next) const {
    using R = std::invoke_result_t<F&, const Value&>;
    if constexpr (detail::IsFuture<R>::value) {
      using U = typename detail::IsFuture<R>::Value;
      return Future<U>(
          [self = *this, next](Timeout timeout) mutable {
            return next(self.wait(timeout)).wait(timeout);
          },
          [] { return false; });
    } else if constexpr (std::is_void_v<R>) {
      return Future<void>(
          [self = *this, next](Timeout timeout) mutable {
            next(self.wait(timeout));
            return std::monostate{};
          },
          [self = *this] { return self.is_completed(); });
    } else {
      return Future<R>(
          [self = *this, next](Timeout timeout) mutable -> R { return next(self.wait(timeout)); },
          [self = *this] { return self.is_completed(); });
    }
  }

  std::shared_ptr<State> state_;
};

/// A future that is complete already.
template <typename T>
[[nodiscard]] Future<T> make_future(T value) {
  return Future<T>([value = std::move(value)](typename Future<T>::Timeout) { return value; },
                   [] { return true; });
}

}  // namespace lockstep
