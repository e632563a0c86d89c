// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

namespace lockstep::optim {

/// `ratio`, and 1 where one of the norms is 0. All are tensors of one element, so that a GPU need
/// not be waited for.
inline at::Tensor ratio_unless_zero(const at::Tensor& ratio, const at::Tensor& norm,
                                    const at::Tensor& other_norm) {
  return at::where(norm.gt(0).logical_and(other_norm.gt(0)), ratio, 1.0);
}

}  // namespace lockstep::optim
