// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/task_port.h>
#include <lockstep/workers/task_codec.h>
#include <lockstep/workers/task_future.h>
#include <lockstep/workers/task_pool_options.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// The templates behind `TaskPool`.
///
/// Thread-safety: as `TaskPool`.

namespace lockstep::workers {

/// @cond what the templates of `TaskPool` use

template <class T>
struct TravellingOf {
  using type = std::decay_t<T>;
};
template <class T>
requires std::is_same_v < std::decay_t<T>,
const char* > || std::is_same_v<std::decay_t<T>, char*> ||
    std::is_same_v<std::decay_t<T>, std::string_view> struct TravellingOf<T> {
  using type = std::string;
};
template <>
struct TravellingOf<std::vector<bool>::reference> {
  using type = bool;
};
/// As what an argument goes to a worker: texts as `std::string`.
template <class T>
using Travelling = typename TravellingOf<T>::type;

template <class Function>
inline constexpr bool may_be_null =
    std::is_pointer_v<Function> || std::is_member_pointer_v<Function>;
template <class Signature>
inline constexpr bool may_be_null<std::function<Signature>> = true;

template <class Function>
void check_function(const Function& function) {
  if constexpr (may_be_null<Function>) TaskPort::check_function(function != nullptr);
}

/// The code that a function is a pointer to; null for others.
template <class Function>
const void* code_of([[maybe_unused]] const Function& function) {
  if constexpr (std::is_pointer_v<Function>) {
    return reinterpret_cast<const void*>(function);
  } else if constexpr (requires { typename Function::OfEachItem; }) {
    return code_of(function.function);
  } else {
    return nullptr;
  }
}

/// Calls the function in the thread of a worker of this process.
template <class Function, class... Arguments>
auto start_here(TaskPort& port, TaskPlace place, Function&& function, Arguments&&... arguments) {
  check_function<std::decay_t<Function>>(function);
  using Result = std::remove_cvref_t<
      std::invoke_result_t<std::decay_t<Function>&, std::decay_t<Arguments>...>>;
  using Future = TaskFuture<Result>;
  auto cell = std::make_shared<typename Future::Cell>();
  using Parts = std::tuple<std::decay_t<Arguments>...>;
  // In one piece that can be copied, whatever it is.
  auto call = std::make_shared<std::pair<std::decay_t<Function>, Parts>>(
      std::forward<Function>(function), Parts(std::forward<Arguments>(arguments)...));
  auto handle = port.start_here(
      [cell, call]() mutable {
        const auto own = std::move(call);
        if constexpr (std::is_void_v<Result>) {
          std::apply(own->first, std::move(own->second));
        } else {
          cell->emplace(std::apply(own->first, std::move(own->second)));
        }
      },
      std::move(place));
  return Future(std::move(handle), std::move(cell));
}

/// A function and the types of its arguments: how they travel.
template <class Function, class... Arguments>
struct TaskCall {
  static constexpr bool is_callable = std::is_invocable_v<Function&, Arguments...>;

  template <bool kIsCallable = is_callable>
  static auto result_type() {
    if constexpr (kIsCallable) {
      return std::type_identity<
          std::remove_cvref_t<std::invoke_result_t<Function&, Arguments...>>>();
    } else {
      return std::type_identity<void>();
    }
  }
  using Result = typename decltype(result_type())::type;
  static constexpr bool has_result = std::is_void_v<Result> || TaskValue<Result>;

  // Says in one sentence what is wrong, and keeps the compiler from saying more.
  static constexpr bool is_possible() {
    static_assert(is_callable,
                  "TaskPool: the function is called with the arguments as values of its own "
                  "(texts are std::string), and takes them by value or by constant reference");
    static_assert(std::is_trivially_copyable_v<Function>,
                  "TaskPool: what the function captures does not go to another process; pass "
                  "tensors, strings and vectors as arguments (submit_to_thread takes any "
                  "function)");
    static_assert((TaskValue<Arguments> && ...),
                  "TaskPool: an argument is a torch::Tensor, trivially copyable, a std::string, a "
                  "container of these, or has a lockstep::workers::ResultCodec; no pointer, view "
                  "or reference, which leads to memory that a worker does not have");
    static_assert(has_result,
                  "TaskPool: a result is a torch::Tensor, trivially copyable, a std::string, a "
                  "container of these, has a lockstep::workers::ResultCodec, or is nothing; no "
                  "pointer, view or reference, which leads to memory that the program does not "
                  "have");
    return is_callable && std::is_trivially_copyable_v<Function> && (TaskValue<Arguments> && ...) &&
           has_result;
  }

  /// In a worker process.
  static void run(PayloadReader& reader, PayloadWriter& writer) {
    auto function = value_of_bytes<Function>(reader.read(sizeof(Function)));
    // In braces, so that they are read from left to right.
    std::tuple<Arguments...> arguments{TaskCodec<Arguments>::read(reader)...};
    if constexpr (std::is_void_v<Result>) {
      std::apply(function, std::move(arguments));
    } else {
      const Result result = std::apply(function, std::move(arguments));
      TaskCodec<Result>::write(writer, result);
    }
  }

  template <class... Given>
  static TaskFuture<Result> start(TaskPort& port, TaskPlace place, Function function,
                                  Given&&... arguments) {
    if (port.has_threads()) {
      return workers::start_here(port, std::move(place), std::move(function),
                                 std::forward<Given>(arguments)...);
    }
    check_function(function);
    std::array<char, sizeof(Function)> closure{};
    std::memcpy(closure.data(), &function, sizeof(Function));
    auto payload = port.new_payload();
    payload.write_value<TaskCode>(&TaskCall::run);
    payload.write(closure.data(), closure.size());
    (TaskCodec<Arguments>::write(payload, arguments), ...);
    return {port.start(&TaskCall::run, code_of(function), {closure.data(), closure.size()}, payload,
                       std::move(place)),
            nullptr};
  }
};

/// @endcond

}  // namespace lockstep::workers
