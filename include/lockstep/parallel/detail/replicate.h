// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/core/Device.h>
#include <lockstep/core/detail/visit_tensors.h>
#include <lockstep/parallel/detail/wrapped_module.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::detail {

/// A copy of a module on that device, made by its `clone`.
template <typename Net>
[[nodiscard]] Net clone_of(const Net& net, c10::Device device) {
  if constexpr (requires {
                  { net.clone(device) } -> std::same_as<Net>;
                }) {
    return net.clone(device);  // AnyModule
  } else {
    using Module = std::remove_cvref_t<decltype(forward_of(std::declval<Net&>()))>;
    auto copy = std::dynamic_pointer_cast<Module>(module_of(net)->clone(device));
    TORCH_CHECK(copy != nullptr, "clone() of ", module_of(net)->name(),
                " gives a module of another type; its class must clone itself");
    return Net(std::move(copy));
  }
}

/// What `has_visible_tensors` is asked with.
struct VisitTensor {
  void operator()(const at::Tensor& tensor) const;
};

/// What values of a type may hold.
struct Holdings {
  bool tensors = false;
  bool others = false;          ///< numbers, strings
  bool rows_of_others = false;  ///< in containers, whose size may be that of the batch

  [[nodiscard]] constexpr Holdings with(Holdings more) const noexcept {
    return {tensors || more.tensors, others || more.others, rows_of_others || more.rows_of_others};
  }
};

template <typename T>
[[nodiscard]] constexpr Holdings holdings_of();

template <typename Tuple, std::size_t... Index>
[[nodiscard]] constexpr Holdings holdings_of_parts(std::index_sequence<Index...>) {
  Holdings all;
  ((all = all.with(holdings_of<std::remove_cvref_t<std::tuple_element_t<Index, Tuple>>>())), ...);
  return all;
}

/// A value of a map, or an element of another container.
template <typename Range>
[[nodiscard]] constexpr Holdings holdings_of_elements() {
  if constexpr (requires { typename Range::mapped_type; }) {
    return holdings_of<typename Range::mapped_type>();
  } else {
    return holdings_of<std::ranges::range_value_t<Range>>();
  }
}

template <typename T>
constexpr Holdings holdings_of() {
  if constexpr (std::is_convertible_v<T&, at::Tensor&> || VisitsTensors<T, VisitTensor>) {
    return {true, false, false};
  } else if constexpr (OptionalLike<T> || ItemLike<T>) {
    return holdings_of<std::remove_cvref_t<decltype(std::declval<T&>().value())>>();
  } else if constexpr (TupleLike<T>) {
    return holdings_of_parts<T>(std::make_index_sequence<std::tuple_size_v<T>>());
  } else if constexpr (RangeLike<T>) {
    const Holdings element = holdings_of_elements<T>();
    return element.tensors ? element : Holdings{false, true, true};
  } else {
    return {false, true, false};
  }
}

/// How a batch is cut: the samples of each part, one part after the other.
struct Cut {
  std::int64_t samples = 0;           ///< of the batch
  std::vector<std::int64_t> lengths;  ///< of the parts; as many as ranks, or fewer

  [[nodiscard]] bool has_part(int rank) const noexcept {
    return static_cast<std::size_t>(rank) < lengths.size();
  }
  /// All parts but the last one are equally long.
  [[nodiscard]] std::int64_t begin_of(int rank) const noexcept { return rank * lengths.front(); }
  [[nodiscard]] std::int64_t length_of(int rank) const {
    return lengths[static_cast<std::size_t>(rank)];
  }
};

/// The first size of the first tensor in `value` that has one.
template <typename Value>
[[nodiscard]] std::optional<std::int64_t> batch_size_of(const Value& value) {
  std::optional<std::int64_t> size;
  for_each_tensor(value, [&](const at::Tensor& tensor) {
    if (!size && tensor.defined() && tensor.dim() > 0) size = tensor.size(0);
  });
  return size;
}

/// The part of a rank, on its device. Tensors without dimensions go to all ranks.
template <typename Value>
[[nodiscard]] Value part_of(const Value& whole, const Cut& cut, int rank, c10::Device device) {
  constexpr bool is_known = has_visible_tensors<Value, VisitTensor>();
  static_assert(is_known,
                "DataParallel: input and target must be tensors, or tuples, containers and "
                "optionals of tensors; a class of the program shows its own by for_each_tensor(f)");
  static_assert(!is_known || !holdings_of<Value>().rows_of_others,
                "DataParallel: a container of numbers or strings would go whole to every rank; "
                "give a tensor, which is cut along its first dimension");
  Value part = whole;
  for_each_tensor(part, [&](at::Tensor& tensor) {
    if (!tensor.defined()) return;
    TORCH_CHECK(!tensor.requires_grad() || !at::GradMode::is_enabled(),
                "DataParallel::step: a tensor of the batch requires grad, and the ranks' backward "
                "would walk its graph at once; only the module's parameters get gradients, so give "
                "detach() of the tensor");
    if (tensor.dim() > 0) {
      TORCH_CHECK(tensor.size(0) == cut.samples, "DataParallel: a tensor of the batch has ",
                  tensor.size(0), " samples in its first dimension, the input has ", cut.samples);
      if (cut.lengths.size() > 1) {
        tensor = tensor.narrow(0, cut.begin_of(rank), cut.length_of(rank));
      }
    }
    tensor = tensor.to(device, /*non_blocking=*/true);
  });
  return part;
}

/// Puts the ranks' outputs together along the first dimension. Tensors without dimensions become
/// one with as many elements as parts; those that no rank has stay undefined.
template <typename Output>
[[nodiscard]] Output joined(std::vector<std::optional<Output>> parts, c10::Device device) {
  static_assert(has_visible_tensors<Output, VisitTensor>() && !holdings_of<Output>().others,
                "DataParallel::forward: the module's output must be tensors, or tuples, containers "
                "and optionals of tensors; of anything else only the first rank's would be given");
  Output whole = std::move(*parts.front());
  if (parts.size() == 1) return whole;
  std::vector<std::vector<at::Tensor>> pieces;  // of each tensor, in the order of the ranks
  for_each_tensor(whole, [&](const at::Tensor& tensor) { pieces.push_back({tensor}); });
  for (std::size_t rank = 1; rank < parts.size(); ++rank) {
    std::size_t index = 0;
    for_each_tensor(*parts[rank], [&](const at::Tensor& tensor) {
      if (index < pieces.size()) {
        pieces[index].push_back(tensor.defined() ? tensor.to(device) : tensor);
      }
      ++index;
    });
    TORCH_CHECK(index == pieces.size(), "DataParallel::forward: the output of rank ", rank, " has ",
                index, " tensors, that of rank 0 has ", pieces.size());
  }
  std::size_t index = 0;
  for_each_tensor(whole, [&](at::Tensor& tensor) {
    const auto& own = pieces[index++];
    const auto odd = std::find_if(own.begin(), own.end(), [&](const at::Tensor& piece) {
      return piece.defined() != tensor.defined();
    });
    TORCH_CHECK(odd == own.end(), "DataParallel::forward: tensor ", index - 1, " of the output is ",
                tensor.defined() ? "undefined" : "defined", " in rank ", odd - own.begin(),
                ", and ", tensor.defined() ? "defined" : "undefined", " in rank 0");
    if (!tensor.defined()) return;
    tensor = tensor.dim() == 0 ? at::stack(own) : at::cat(own);
  });
  return whole;
}

}  // namespace lockstep::detail
