// SPDX-License-Identifier: BSD-3-Clause
// What differs between the versions of LibTorch that Lockstep compiles with. Each function looks at
// the types themselves, so that no number of a version has to be known.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace lockstep {

/// A node of autograd's graph, in the pointer that holds it: a `std::shared_ptr` in LibTorch 2.11,
/// a `c10::intrusive_ptr` in 2.15.
template <class Node, class... Arguments>
[[nodiscard]] auto make_autograd_node(Arguments&&... arguments) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>) {
    return c10::make_intrusive<Node>(std::forward<Arguments>(arguments)...);
  } else {
    return std::make_shared<Node>(std::forward<Arguments>(arguments)...);
  }
}

/// Whether the dimensions of a tensor have names. LibTorch 2.15 has no named tensors any more.
template <class Tensor>
[[nodiscard]] bool has_dimension_names(const Tensor& tensor) {
  if constexpr (requires { tensor.has_names(); }) {
    return tensor.has_names();
  } else {
    return false;
  }
}

}  // namespace lockstep
