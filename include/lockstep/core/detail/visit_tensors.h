// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <ranges>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace lockstep::detail {

template <typename T>
concept TensorLike = std::is_convertible_v<const T&, const at::Tensor&>;
template <typename T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};
template <typename T>
concept OptionalLike = requires(const T& value) {
  value.has_value();
  value.value();
};
template <typename T>
concept ItemLike = requires(const T& item) {  // of torch::OrderedDict
  item.key();
  item.value();
};
template <typename T>
concept RangeLike =
    std::ranges::input_range<const T> && !std::is_convertible_v<const T&, std::string_view> &&
    !std::is_same_v<std::ranges::range_value_t<const T>, T>;
template <typename T, typename F>
concept VisitsTensors = requires(T& value, F f) {
  value.for_each_tensor(f);
};

/// Calls `f` with every tensor in a value: itself, in tuples, pairs, ranges (maps as well), and
/// optionals of such, to any depth, and in types that say what they hold. Other values hold none.
/// The tensors may be replaced where the value is not constant. The order depends on the type and
/// on the sizes only.
template <typename Value, typename F>
void for_each_tensor(Value&& value, const F& f) {
  using T = std::remove_cvref_t<Value>;
  constexpr bool is_constant = std::is_const_v<std::remove_reference_t<Value>>;
  if constexpr (TensorLike<T> && !is_constant && std::is_convertible_v<T&, at::Tensor&>) {
    f(static_cast<at::Tensor&>(value));
  } else if constexpr (TensorLike<T>) {
    f(static_cast<const at::Tensor&>(value));
  } else if constexpr (VisitsTensors<std::remove_reference_t<Value>, F>) {
    // Such types show their tensors as constants as a rule. Where the value is none, they are none.
    if constexpr (is_constant) {
      value.for_each_tensor(f);
    } else {
      value.for_each_tensor([&](const at::Tensor& tensor) { f(const_cast<at::Tensor&>(tensor)); });
    }
  } else if constexpr (OptionalLike<T>) {
    if (value.has_value()) for_each_tensor(value.value(), f);
  } else if constexpr (TupleLike<T>) {
    std::apply([&](auto&... parts) { (for_each_tensor(parts, f), ...); }, value);
  } else if constexpr (ItemLike<T>) {
    for_each_tensor(value.value(), f);
  } else if constexpr (RangeLike<T>) {
    for (auto&& part : value) for_each_tensor(part, f);
  }
}

template <typename T, typename F>
[[nodiscard]] constexpr bool has_visible_tensors();

template <typename Tuple, typename F>
struct PartsHaveVisibleTensors;
template <template <typename...> typename Tuple, typename... Parts, typename F>
struct PartsHaveVisibleTensors<Tuple<Parts...>, F>
    : std::bool_constant<(has_visible_tensors<std::remove_cvref_t<Parts>, F>() && ...)> {};
template <template <typename, std::size_t> typename Array, typename Part, std::size_t Size,
          typename F>
struct PartsHaveVisibleTensors<Array<Part, Size>, F>
    : std::bool_constant<has_visible_tensors<Part, F>()> {};

/// Whether `for_each_tensor` finds every tensor that a value of type `T` can hold, and may replace
/// it: no part of it has a type that is unknown here.
template <typename T, typename F>
constexpr bool has_visible_tensors() {
  if constexpr (std::is_void_v<T>) {
    return false;
  } else if constexpr (std::is_convertible_v<T&, at::Tensor&> || VisitsTensors<T, F>) {
    return true;
  } else if constexpr (OptionalLike<T>) {
    return has_visible_tensors<std::remove_cvref_t<decltype(std::declval<T&>().value())>, F>();
  } else if constexpr (TupleLike<T>) {
    return PartsHaveVisibleTensors<T, F>::value;
  } else if constexpr (ItemLike<T>) {
    return has_visible_tensors<std::remove_cvref_t<decltype(std::declval<T&>().value())>, F>();
  } else if constexpr (RangeLike<T>) {
    return has_visible_tensors<std::ranges::range_value_t<T>, F>();
  } else {
    return std::is_arithmetic_v<T> || std::is_enum_v<T> ||
           std::is_convertible_v<const T&, std::string_view>;
  }
}

}  // namespace lockstep::detail
