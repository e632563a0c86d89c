// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace lockstep::nn {

/// `lockstep::optim::clip_grad_norm_` for a model with tensor-parallel layers: the norm is that of
/// the gradients of the full model. What all ranks have counts once, and the parts of what is cut
/// are put together. All ranks get the same norm and multiply by the same factor.
///
/// The factor is computed in float or double. The result has the dtype of the first gradient, and
/// is infinite where that is Half and the norm does not fit.
///
/// Shapes: the result has no dimensions; without gradients it is 0.
/// Blocks: the calling thread.
/// Collective: all ranks of the layers' groups call it.
/// Thread-safety: as the module's, and its groups'.
/// Throws: `c10::Error` for a `max_norm` that is negative or no number, and a `norm_type` that is
/// not positive; with `error_if_nonfinite`
/// for a norm that is infinite or no number, on every rank, before a gradient is changed; what a
/// collective throws.
LOCKSTEP_API at::Tensor clip_grad_norm_(torch::nn::Module& module, double max_norm,
                                        double norm_type = 2.0, bool error_if_nonfinite = false);

/// For a module of `TORCH_MODULE`.
template <class Contained>
at::Tensor clip_grad_norm_(const torch::nn::ModuleHolder<Contained>& module, double max_norm,
                           double norm_type = 2.0, bool error_if_nonfinite = false) {
  return clip_grad_norm_(static_cast<torch::nn::Module&>(*module.ptr()), max_norm, norm_type,
                         error_if_nonfinite);
}

}  // namespace lockstep::nn
