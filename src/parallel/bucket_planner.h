// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <vector>

namespace lockstep {

/// What the planner needs to know of a parameter.
struct GradientShape {
  std::size_t elements = 0;
  at::ScalarType dtype = at::kFloat;
};

/// Parameters whose gradients travel together, by their index in registration order, in the order
/// of their places.
struct BucketPlan {
  std::vector<std::size_t> parameters;
  at::ScalarType dtype = at::kFloat;
};

/// Divides parameters into buckets, in the order in which the buckets will be all-reduced.
///
/// Step 2 of the gradient path. A pure function: equal on all ranks because its input is. Backward
/// makes gradients roughly in reverse order of registration, so buckets fill in that order and can
/// travel from the first iteration on. A bucket holds one dtype and at most `cap_bytes` (the first
/// `first_cap_bytes`), unless a single gradient is larger. Source: the default assignment of
/// PyTorch's `Reducer`, which however uses one bucket in the first iteration.
[[nodiscard]] std::vector<BucketPlan> plan_buckets(const std::vector<GradientShape>& parameters,
                                                   std::size_t first_cap_bytes,
                                                   std::size_t cap_bytes);

}  // namespace lockstep
