// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <memory>

namespace lockstep::nn {

/// This rank's columns of a linear layer: `tensor_parallel::copy_to` and `at::linear` in one, or
/// `gather_from_sequence` and `at::linear`. As one function, its backward starts to communicate the
/// input's gradient before it computes that of the weight.
///
/// `bias`: undefined where there is none.
[[nodiscard]] at::Tensor column_linear(const at::Tensor& input, const at::Tensor& weight,
                                       const at::Tensor& bias,
                                       const std::shared_ptr<ProcessGroup>& group,
                                       bool is_sequence_cut);

}  // namespace lockstep::nn
