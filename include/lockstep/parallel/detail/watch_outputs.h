// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <ranges>
#include <string_view>
#include <tuple>
#include <type_traits>

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
concept VisitsTensors = requires(const T& value, F f) {
  value.for_each_tensor(f);
};

/// Calls `f` with every tensor in a value: itself, in tuples, pairs, ranges (maps as well), and
/// optionals of such, to any depth, and in types that say what they hold. Other values hold none.
template <typename T, typename F>
void for_each_tensor(const T& value, const F& f) {
  if constexpr (TensorLike<T>) {
    f(static_cast<const at::Tensor&>(value));
  } else if constexpr (VisitsTensors<T, F>) {
    value.for_each_tensor(f);
  } else if constexpr (OptionalLike<T>) {
    if (value.has_value()) for_each_tensor(value.value(), f);
  } else if constexpr (TupleLike<T>) {
    std::apply([&](const auto&... parts) { (for_each_tensor(parts, f), ...); }, value);
  } else if constexpr (ItemLike<T>) {
    for_each_tensor(value.value(), f);
  } else if constexpr (RangeLike<T>) {
    for (const auto& part : value) for_each_tensor(part, f);
  }
}

/// The size of the first dimension of the first argument, if it is a tensor that has one.
[[nodiscard]] inline std::int64_t samples_of() {
  return 0;
}
template <typename First, typename... Rest>
[[nodiscard]] std::int64_t samples_of(const First& first, const Rest&...) {
  if constexpr (TensorLike<First>) {
    const at::Tensor& tensor = first;
    return tensor.defined() && tensor.dim() > 0 ? tensor.size(0) : 0;
  } else {
    return 0;
  }
}

}  // namespace lockstep::detail
