// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/nn/module.h>

#include <concepts>
#include <memory>
#include <utility>

namespace lockstep::detail {

/// `torch::nn::AnyModule`, and the holders that `TORCH_MODULE` makes.
template <typename Net>
concept HoldsModule = requires(const Net& net) {
  { net.ptr() } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
  { net.is_empty() } -> std::convertible_to<bool>;
};
template <typename Net>
concept PointsToModule = std::same_as<Net, std::shared_ptr<typename Net::element_type>> &&
    std::derived_from<typename Net::element_type, torch::nn::Module>;
template <typename Net>
concept WrapsModule = HoldsModule<Net> || PointsToModule<Net>;

/// Null for an empty one.
template <typename Net>
[[nodiscard]] std::shared_ptr<torch::nn::Module> module_of(const Net& net) {
  if constexpr (HoldsModule<Net>) {
    if (net.is_empty()) return nullptr;
    return net.ptr();
  } else {
    return net;
  }
}

/// What has `forward`: an `AnyModule` itself, otherwise the module.
template <typename Net>
[[nodiscard]] auto& forward_of(Net& net) {
  if constexpr (requires { net.operator->(); }) {
    return *net.operator->();
  } else {
    return net;
  }
}

template <typename Net, typename... Arguments>
concept ForwardTakes = requires(Net& net, Arguments&&... arguments) {
  forward_of(net).forward(std::forward<Arguments>(arguments)...);
};
template <typename Result, typename Net, typename... Arguments>
concept ForwardGives = requires(Net& net, Arguments&&... arguments) {
  {
    forward_of(net).template forward<Result>(std::forward<Arguments>(arguments)...)
    } -> std::same_as<Result>;
};

}  // namespace lockstep::detail
