// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <vector>

namespace lockstep {

/// What the planner needs to know of a parameter.
struct GradientShape {
  std::size_t elements = 0;
  at::ScalarType dtype = at::kFloat;  ///< in which its gradient travels
  c10::Device device = c10::kCPU;

  [[nodiscard]] std::size_t bytes() const { return elements * c10::elementSize(dtype); }
};

/// Parameters whose gradients travel together, by their index in registration order, in the order
/// of their places.
struct BucketPlan {
  std::vector<std::size_t> parameters;
  at::ScalarType dtype = at::kFloat;
  c10::Device device = c10::kCPU;
};

/// Backward makes gradients roughly in reverse order of registration.
[[nodiscard]] std::vector<std::size_t> reverse_order(std::size_t parameters);

/// Divides parameters into buckets, in the order in which the buckets will be all-reduced.
///
/// Step 2 of the gradient path. A pure function: equal on all ranks because its input is. Buckets
/// fill in `order`, that of the gradients, and can travel from the first iteration on. A bucket
/// holds one dtype on one device and at most as many bytes as its cap (`caps[i]` for the i-th that
/// is full, the last for all further ones), unless a single gradient is larger. Source: the default
/// assignment of PyTorch's `Reducer`, which however uses one bucket in the first iteration.
[[nodiscard]] std::vector<BucketPlan> plan_buckets(const std::vector<GradientShape>& parameters,
                                                   const std::vector<std::size_t>& order,
                                                   const std::vector<std::size_t>& caps);

/// The same with boundaries: a bucket ends behind its parameter order[i] where `is_end[i]`.
[[nodiscard]] std::vector<BucketPlan> plan_buckets_at(const std::vector<GradientShape>& parameters,
                                                      const std::vector<std::size_t>& order,
                                                      const std::vector<bool>& is_end);

}  // namespace lockstep
