// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <vector>

/// @file
/// Gradients of bounded size, before an optimizer's step. With a `GradScaler`, clip after
/// `unscale_`. After a backward of `DistributedDataParallel`, gradients and therefore norms are
/// equal on all ranks, so that no rank needs another.
///
/// Parameters without a gradient are passed over. A parameter that is there several times, as
/// LibTorch's `parameters()` has tied ones, counts once. Sparse gradients are coalesced.
///
/// Thread-safety: as the parameters'.

namespace lockstep::optim {

/// Multiplies all gradients by min(1, `max_norm` / (norm + 1e-6)), where norm is that of all
/// gradients as one vector, and returns the norm, on the device of the first gradient. `norm_type`
/// is the p of the p-norm; infinity is the largest magnitude.
///
/// Its bits are those of Python's `torch.nn.utils.clip_grad_norm_`, where all gradients have one
/// device and dtype. Without `error_if_nonfinite`, a norm that is no number makes all gradients
/// none, and the host does not wait for a device.
///
/// Shapes: any. The result has no dimensions; without gradients it is 0.
/// Throws: `c10::Error` for a `max_norm` that is negative or no number; with `error_if_nonfinite`
/// for a norm that is infinite or no number, before a gradient is changed.
/// Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
/// ICML 2013.
LOCKSTEP_API at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                                        double norm_type = 2.0, bool error_if_nonfinite = false);

/// The norm of these tensors as one vector: the first half of `clip_grad_norm_`.
///
/// Shapes: any. The result has no dimensions; without tensors it is 0.
/// Throws: with `error_if_nonfinite`, `c10::Error` for a norm that is infinite or no number.
[[nodiscard]] LOCKSTEP_API at::Tensor get_total_norm(const std::vector<at::Tensor>& tensors,
                                                     double norm_type = 2.0,
                                                     bool error_if_nonfinite = false);

/// Multiplies the gradients by min(1, `max_norm` / (`total_norm` + 1e-6)): the second half of
/// `clip_grad_norm_`, for norms that the program has put together itself.
///
/// Shapes: `total_norm` has no dimensions.
/// Throws: `c10::Error` for a `max_norm` that is negative or no number.
LOCKSTEP_API void clip_grads_with_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                                        const at::Tensor& total_norm);

/// Moves each element of the gradients into [-`clip_value`, `clip_value`]. What is no number stays.
///
/// Throws: `c10::Error` for a `clip_value` that is negative or no number.
LOCKSTEP_API void clip_grad_value_(const std::vector<at::Tensor>& parameters, double clip_value);

}  // namespace lockstep::optim
