// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/core/Device.h>
#include <lockstep/core/detail/visit_tensors.h>
#include <lockstep/parallel/detail/wrapped_module.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
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
  Value part = whole;
  for_each_tensor(part, [&](at::Tensor& tensor) {
    if (!tensor.defined()) return;
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
/// one with as many elements as parts.
template <typename Output>
[[nodiscard]] Output joined(std::vector<std::optional<Output>> parts, c10::Device device) {
  Output whole = std::move(*parts.front());
  if (parts.size() == 1) return whole;
  std::vector<std::vector<at::Tensor>> pieces;  // of each tensor, in the order of the ranks
  for_each_tensor(whole, [&](const at::Tensor& tensor) { pieces.push_back({tensor}); });
  for (std::size_t rank = 1; rank < parts.size(); ++rank) {
    std::size_t index = 0;
    for_each_tensor(*parts[rank], [&](const at::Tensor& tensor) {
      if (index < pieces.size()) pieces[index].push_back(tensor.to(device));
      ++index;
    });
    TORCH_CHECK(index == pieces.size(), "DataParallel::forward: the output of rank ", rank, " has ",
                index, " tensors, that of rank 0 has ", pieces.size());
  }
  std::size_t index = 0;
  for_each_tensor(whole, [&](at::Tensor& tensor) {
    const auto& own = pieces[index++];
    tensor = tensor.dim() == 0 ? at::stack(own) : at::cat(own);
  });
  return whole;
}

}  // namespace lockstep::detail
