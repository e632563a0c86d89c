// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <vector>

namespace lockstep {

/// What an assignment to buckets needs to know of a parameter.
struct GradientShape {
  std::size_t elements = 0;
  at::ScalarType dtype = at::kFloat;  ///< in which its gradient travels
  c10::Device device = c10::kCPU;

  [[nodiscard]] std::size_t bytes() const { return elements * c10::elementSize(dtype); }
};

/// Parameters that are assigned to one bucket: their indices in registration order, in the order of
/// their places in the bucket.
struct BucketSpec {
  std::vector<std::size_t> parameters;
  at::ScalarType dtype = at::kFloat;
  c10::Device device = c10::kCPU;
};

/// Backward makes gradients roughly in reverse order of registration.
[[nodiscard]] std::vector<std::size_t> reverse_order(std::size_t parameters);

/// Assigns parameters to buckets, and returns these in the order in which they will be all-reduced.
///
/// Step 2 of the gradient data path. This is a pure function: all ranks call it with the same
/// arguments and get the same buckets. Buckets fill in `order`, that of the gradients, and can
/// travel from the first iteration on. A bucket holds one dtype on one device and at most as many
/// bytes as its cap (`caps[i]` for the i-th that is full, the last for all further ones), unless a
/// single gradient is larger. Source: the default assignment of PyTorch's `Reducer`, which however
/// uses one bucket in the first iteration.
[[nodiscard]] std::vector<BucketSpec> assign_buckets(const std::vector<GradientShape>& parameters,
                                                     const std::vector<std::size_t>& order,
                                                     const std::vector<std::size_t>& caps);

/// Does the same with given boundaries: a bucket ends behind its parameter order[i] where
/// `is_end[i]`.
[[nodiscard]] std::vector<BucketSpec> assign_buckets_at(
    const std::vector<GradientShape>& parameters, const std::vector<std::size_t>& order,
    const std::vector<bool>& is_end);

}  // namespace lockstep
